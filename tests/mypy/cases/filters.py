"""Filters of handlers: which events lie in a step, and what follows from a filter for other checks."""

import dataclasses
from typing import Any

import torch.distributed as dist
from lab.events.trial import EVENT_TRIAL_ROUND_POST, EventRoundContext
from moments.common import EventStepContext as OtherStepContext
from moments.train import EVENT_TRAIN_STEP_POST as EVENT_OF_AN_OLDER_CATALOGUE

from d9d.core.stepper import Stepper
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, Subscription, subscribe
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventModelStagesReadyContext,
    EventStepContext,
    EventTrainReadyContext,
)


@dataclasses.dataclass(kw_only=True)
class MixedContext:
    stepper: Stepper


EVENT_MIXED = Event[MixedContext](id="user.mixed", in_step=True)
EVENT_MIXED_ONCE: Event[MixedContext] = Event(id="user.mixed_once")


def show(*values: object) -> None: ...


def period() -> int:
    return 10


# docs: d9d-filter
class WrongPeriod:
    # E[d9d-filter]: "every" counts steps, but EVENT_TRAIN_READY ("train.ready") does not lie in a step: remove "every",
    #   or use an event between step.pre and step.post
    @subscribe(EVENT_TRAIN_READY, every=10)
    def report(self, ctx: EventTrainReadyContext) -> None: ...


class RightPeriod:
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def report(self, ctx: EventStepContext) -> None: ...


# docs: end


class Wrong:
    # E[d9d-filter]: "every" counts steps, but EVENT_TRIAL_ROUND_POST ("trial.round.post") does not lie in a step:
    #   remove "every", or use an event between step.pre and step.post
    @subscribe(EVENT_TRIAL_ROUND_POST, main_process_only=True, every=period())
    def of_another_catalogue(self, ctx: EventRoundContext) -> None: ...

    # E[d9d-filter]: "every" counts steps, but EVENT_MIXED_ONCE ("user.mixed_once") does not lie in a step: remove
    #   "every", or create the event with in_step=True if its context has the stepper of the current step
    # E[d9d-untriggered]: Nothing triggers EVENT_MIXED_ONCE ("user.mixed_once"), so its handlers are never called:
    #   trigger it where it happens, with bus.trigger or an emitter
    @subscribe(EVENT_MIXED_ONCE, every=10)
    def of_no_catalogue(self, ctx: MixedContext) -> None: ...

    # E[d9d-filter]: "every" is a number of steps, and must be at least 1: the bus refuses this one
    @subscribe(EVENT_TRAIN_STEP_POST, every=0)
    def too_small(self, ctx: EventStepContext) -> None: ...


def wrong(bus: EventBus) -> None:
    # E[d9d-filter]: "every" counts steps, but EVENT_TRAIN_READY ("train.ready") does not lie in a step: remove "every",
    #   or use an event between step.pre and step.post
    bus.subscribe(EVENT_TRAIN_READY, show, every=2)
    # E[d9d-filter]: "every" is a number of steps, and must be at least 1: the bus refuses this one
    bus.subscribe(EVENT_TRAIN_STEP_POST, show, every=-1)
    # E[d9d-handler]: Handler "takes_another" of EVENT_TRAIN_STEP_POST ("train.step.post") takes "EventRoundContext",
    #   but the event carries "EventStepContext": annotate "ctx" with "EventStepContext". Did you mean the event
    #   EVENT_TRIAL_DRAW_POST, EVENT_TRIAL_ROUND_POST or EVENT_TRIAL_DRAW_PRE?
    bus.subscribe(EVENT_TRAIN_STEP_POST, takes_another, every=10)


def takes_another(ctx: EventRoundContext) -> None: ...


class Right:
    @subscribe(EVENT_TRAIN_STEP_POST, every=None)
    def always(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY, once=True, main_process_only=True)
    def at_the_beginning(self, ctx: EventTrainReadyContext) -> None: ...

    @subscribe(every=period(), event=EVENT_TRAIN_STEP_PRE)
    def by_name(self, ctx: EventStepContext) -> None: ...

    # E[d9d-untriggered]: Nothing triggers EVENT_MIXED ("user.mixed"), so its handlers are never called: trigger it
    #   where it happens, with bus.trigger or an emitter
    @subscribe(EVENT_MIXED, every=10)
    def of_no_catalogue(self, ctx: MixedContext) -> None: ...

    @subscribe(EVENT_OF_AN_OLDER_CATALOGUE, every=10)
    def of_an_older_catalogue(self, ctx: OtherStepContext) -> None: ...


def right(bus: EventBus, event: Event[Any], options: dict[str, Any]) -> Subscription:
    bus.subscribe(event, show, every=10)
    bus.subscribe(EVENT_TRAIN_READY, show, **options)
    with bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: show(ctx.stepper.current_step), every=10):
        pass
    subscription = bus.subscribe(EVENT_TRAIN_STEP_POST, show, every=10, once=True)
    subscription.unsubscribe()
    return subscription


class WrongCollective:
    @subscribe(EVENT_TRIAL_ROUND_POST, main_process_only=True)
    def report(self, ctx: EventRoundContext) -> None:
        # E[d9d-collective]: Handler "report" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "all_reduce" on some
        #   ranks only, because only the main process calls this handler (main_process_only=True): these ranks wait
        #   forever for the others. Call it on every rank, and keep under the condition only what one rank does alone,
        #   such as printing or writing
        dist.all_reduce(ctx.losses)


class RightCollective:
    @subscribe(EVENT_TRIAL_ROUND_POST, main_process_only=False)
    def report(self, ctx: EventRoundContext) -> None:
        dist.all_reduce(ctx.losses)


class WrongHostSync:
    @subscribe(EVENT_TRAIN_STEP_POST, every=1)
    def report(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "report" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".item()" on a tensor in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        show(self.losses.item())

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def keep(self, ctx: EventRoundContext) -> None:
        self.losses = ctx.losses.mean()


class RightHostSync:
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def report(self, ctx: EventStepContext) -> None:
        show(self.losses.item())

    @subscribe(EVENT_TRIAL_ROUND_POST, once=True)
    def keep(self, ctx: EventRoundContext) -> None:
        self.losses = ctx.losses.mean()
        show(self.losses.item())


class WrongOrder:
    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY, once=True)
    def count(self, ctx: EventModelStagesReadyContext) -> None:
        # E[d9d-order]: Handler "count" of EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages") reads
        #   "self.step", which is assigned only later in the run, by handler "keep" of EVENT_TRAIN_STEP_POST
        #   ("train.step.post"): assign it in "__init__" too, or in the handler of an earlier event
        show(self.step)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def keep(self, ctx: EventStepContext) -> None:
        self.step = ctx.stepper.current_step


class RightOrder:
    """The second handler has run when the first one is due."""

    @subscribe(EVENT_TRAIN_STEP_PRE, every=10)
    def report(self, ctx: EventStepContext) -> None:
        show(self.step)

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def keep(self, ctx: EventStepContext) -> None:
        self.step = ctx.stepper.current_step


class WrongTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def spare(self, ctx: EventStepContext) -> None: ...

    # E[d9d-unregistered]: "WrongTask" never registers its handler "needed" of EVENT_TRAIN_STEP_POST ("train.step.post")
    #   and EVENT_TRAIN_STEP_PRE ("train.step.pre"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self)
    #   in register_events
    @subscribe(EVENT_TRAIN_STEP_PRE, optional=True)
    @subscribe(EVENT_TRAIN_STEP_POST, optional=False)
    def needed(self, ctx: EventStepContext) -> None: ...


class RightTask(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def spare(self, ctx: EventStepContext) -> None: ...
