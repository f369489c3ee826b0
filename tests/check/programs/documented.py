"""The examples of the page about `d9d check`, for codes that no other program shows as briefly."""

from typing import ClassVar

import torch

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_STEP_POST,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
    EventGradientsReadyContext,
    EventLossReadyContext,
)


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.bus = ctx.event_bus
        subscribe_annotated(ctx.event_bus, self)


# docs: d9d-uncalled
def wrong_uncalled(bus: EventBus, task: TrainTask) -> None:
    # E[d9d-uncalled]: "subscribe_annotated" is named here, but not called: nothing happens. Call it
    subscribe_annotated


def right_called(bus: EventBus, task: Registering) -> None:
    subscribe_annotated(bus, task)


# docs: end


# docs: d9d-late
class WrongInEveryStep(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-late]: "on_step" runs in every step and subscribes a handler each time, so the handler is called once
        #   more with every step: subscribe it once, in register_events
        self.bus.subscribe(EVENT_TRAIN_LOSS_READY, print)


class RightOnce(Registering):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, print)


# docs: end


# docs: d9d-untriggered
EVENT_SAVED = Event[str](id="user.saved")
EVENT_UPLOADED = Event[str](id="user.uploaded")


class WrongListener(Registering):
    # E[d9d-untriggered]: Nothing triggers EVENT_SAVED ("user.saved"), so its handlers are never called: trigger it
    #   where it happens, with bus.trigger or an emitter
    @subscribe(EVENT_SAVED)
    def on_saved(self, path: str) -> None: ...


class RightListener(Registering):
    @subscribe(EVENT_UPLOADED)
    def on_uploaded(self, path: str) -> None: ...

    def upload(self, path: str) -> None:
        self.bus.trigger(EVENT_UPLOADED, path)


# docs: end


EVENT_CHANGED = Event[str](id="user.changed")
EVENT_NOTED = Event[str](id="user.noted")


# docs: d9d-recursion
class WrongAgain(Registering):
    @subscribe(EVENT_CHANGED)
    def on_change(self, path: str) -> None:
        # E[d9d-recursion]: Handler "on_change" of EVENT_CHANGED ("user.changed") triggers this event again, without
        #   end: trigger another event, or call what it should do
        self.bus.trigger(EVENT_CHANGED, path)


class RightOther(Registering):
    @subscribe(EVENT_CHANGED)
    def on_change(self, path: str) -> None:
        self.bus.trigger(EVENT_NOTED, path)


# docs: end


# docs: d9d-held
class WrongNorms(Registering):
    wrong_norms: ClassVar[list[torch.Tensor]] = []

    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        # E[d9d-held]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") adds a tensor to
        #   "wrong_norms" in every step, and nothing empties it, so memory of the device fills up: add a number with
        #   .item() every N steps, use a deque with maxlen, or clear it
        self.wrong_norms.append(ctx.norm)


class RightNorms(Registering):
    right_norms: ClassVar[list[torch.Tensor]] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.right_norms.append(ctx.loss)
        if ctx.stepper.is_due(100):
            print(torch.stack(self.right_norms).mean().item())
            self.right_norms.clear()


# docs: end


class Average:
    def store(self) -> None: ...
    def restore(self) -> None: ...


class Mean:
    def swap_in(self) -> None: ...
    def swap_out(self) -> None: ...


# docs: d9d-restore
class WrongAverage(Registering):
    def __init__(self) -> None:
        self.average = Average()

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") calls "store",
        #   and nothing calls "restore", so the training goes on with what it has changed: change it back in a handler
        #   of EVENT_TRAIN_EVALUATION_FINISHED
        self.average.store()


class RightAverage(Registering):
    def __init__(self) -> None:
        self.mean = Mean()

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        self.mean.swap_in()

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def end(self, ctx: EventEvaluationFinishedContext) -> None:
        self.mean.swap_out()


# docs: end
