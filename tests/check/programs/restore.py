"""Handlers of an event that begins something, which change the model for that time, and what changes it back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventCheckpointContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_STARTED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_SLEEP_PRE,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
    EventSleepContext,
    EventTrainFinishedContext,
)


class Registering(TrainTask):
    modules: list[torch.nn.Module]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class Forgotten:
    def swap_in(self) -> None: ...
    def swap_out(self) -> None: ...


class WrongPair(Registering):
    def __init__(self) -> None:
        self.average = Forgotten()

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") calls "swap_in",
        #   and nothing calls "swap_out", so the training goes on with what it has changed: change it back in a handler
        #   of EVENT_TRAIN_EVALUATION_FINISHED
        self.average.swap_in()


class OnlyAtTheEnd:
    def apply(self) -> None: ...
    def restore(self) -> None: ...


class WrongMoment(Registering):
    def __init__(self) -> None:
        self.average = OnlyAtTheEnd()

    @subscribe(EVENT_TRAIN_CHECKPOINT_STARTED)
    def begin(self, ctx: EventCheckpointContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_CHECKPOINT_STARTED ("train.checkpoint.start") calls "apply",
        #   and only "end" calls "restore", when the run has ended, so the training goes on with what it has changed:
        #   change it back in a handler of EVENT_TRAIN_CHECKPOINT_SAVED
        self.average.apply()

    @subscribe(EVENT_TRAIN_FINISHED)
    def end(self, ctx: EventTrainFinishedContext) -> None:
        self.average.restore()


class WrongToggle(Registering):
    def _swap_weights(self) -> None: ...

    @subscribe(EVENT_TRAIN_SLEEP_PRE)
    def begin(self, ctx: EventSleepContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_SLEEP_PRE ("train.sleep.pre") calls "_swap_weights" once, and
        #   nothing calls it again, so the training goes on with what it has changed: change it back in a handler of
        #   EVENT_TRAIN_SLEEP_POST
        self._swap_weights()


class WrongBackup(Registering):
    def __init__(self) -> None:
        self.shadow: dict[str, torch.Tensor] = {}

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") overwrites
        #   weights, and nothing reads the copy that it keeps in "backup", so the training goes on with what it has
        #   changed: change it back in a handler of EVENT_TRAIN_EVALUATION_FINISHED
        self.backup = {}
        for module in self.modules:
            for name, parameter in module.named_parameters():
                self.backup[name] = parameter.detach().clone()
                parameter.data.copy_(self.shadow[name])


class WrongGradients(Registering):
    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") switches
        #   gradients off with "set_grad_enabled(False)", so the training goes on with what it has changed: change it
        #   back in a handler of EVENT_TRAIN_EVALUATION_FINISHED
        torch.set_grad_enabled(False)


class WrongOwnMethods(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_EVALUATION_STARTED, self.begin)

    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") calls "_enter",
        #   and nothing calls "_exit", so the training goes on with what it has changed: change it back in a handler of
        #   EVENT_TRAIN_EVALUATION_FINISHED
        self._enter()

    def _enter(self) -> None: ...
    def _exit(self) -> None: ...


class Average:
    def swap(self) -> None: ...
    def unswap(self) -> None: ...
    def merge(self) -> None: ...
    def unmerge(self) -> None: ...
    def store(self) -> None: ...

    @contextmanager
    def merged(self) -> Iterator[None]:
        self.merge()
        yield
        self.unmerge()


class Right(Registering):
    def __init__(self) -> None:
        self.average = Average()
        self.stack = ExitStack()
        self.frozen = torch.nn.Linear(1, 1)

    def _exchange(self) -> None: ...

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        self.average.swap()
        self.average.store()
        self._exchange()
        self.stack.enter_context(self.average.merged())
        self.original = {name: tensor.clone() for name, tensor in self.frozen.state_dict().items()}
        self.frozen.load_state_dict(self.modules[0].state_dict())

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def end(self, ctx: EventEvaluationFinishedContext) -> None:
        self.average.unswap()
        self._exchange()
        self.stack.close()
        show(call=1, attribute=2, assign=3, expression=4, annotate=5)
        self.frozen.load_state_dict(self.original)
        with torch.no_grad():
            print(self.frozen)

    @subscribe(EVENT_TRAIN_FINISHED)
    def last(self, ctx: EventTrainFinishedContext) -> None:
        self.average.merge()


def show(**numbers: int) -> None:
    print(numbers)


class RightByName(Registering):
    def __init__(self) -> None:
        self.averages: dict[str, torch.Tensor] = {}
        self.live: dict[str, torch.Tensor] = {}

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def apply_ema(self, ctx: EventEvaluationStartedContext) -> None:
        self.live = {name: value.clone() for name, value in self.modules[0].state_dict().items()}
        self.modules[0].load_state_dict(self.averages)

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def put_back(self, ctx: EventEvaluationFinishedContext) -> None:
        self.modules[0].load_state_dict(self.live)
