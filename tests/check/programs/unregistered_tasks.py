"""Tasks and providers whose handlers the loop's call of `register_events` does not reach."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from d9d.loop.control import (
    BaseTask,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventTrainReadyContext


class WrongAbstractInNameOnly(TrainTask):
    # E[d9d-unregistered]: "WrongAbstractInNameOnly" never registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class WrongMisspelt(TrainTask):
    def register_event(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    # E[d9d-unregistered]: "WrongMisspelt" never registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class Parent(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_READY)
    def greet(self, ctx: EventTrainReadyContext) -> None: ...


# E[d9d-unregistered]: "WrongWithoutSuper" never registers its handler "greet" of EVENT_TRAIN_READY ("train.ready"), so
#   nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongWithoutSuper(Parent):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.measure)

    def measure(self, ctx: EventStepContext) -> None: ...


class WrongUnreachable(ModelProvider):
    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        raise NotImplementedError

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        return
        subscribe_annotated(ctx.event_bus, self)

    # E[d9d-unregistered]: "WrongUnreachable" never registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class WrongOnOwnBus(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        bus = EventBus()
        subscribe_annotated(bus, self)

    # E[d9d-unregistered]: "WrongOnOwnBus" registers its handler "count" of EVENT_TRAIN_STEP_POST ("train.step.post")
    #   only on a bus of its own, and nothing triggers events on that bus: call subscribe_annotated(ctx.event_bus, self)
    #   in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


step_handler = subscribe(EVENT_TRAIN_STEP_POST)


class WrongTaggedByVariable(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        print(repr(self), ctx)

    # E[d9d-unregistered]: "WrongTaggedByVariable" never registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @step_handler
    def count(self, ctx: EventStepContext) -> None: ...


class RightThroughHelper(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        attach_all(ctx.event_bus, self.own_handlers())

    def own_handlers(self) -> Iterable[object]:
        yield self

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


def attach_all(bus: EventBus, targets: Iterable[object]) -> None:
    for target in targets:
        subscribe_annotated(bus, target)


class RightOptional(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def count(self, ctx: EventStepContext) -> None: ...


class RightByHand(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, every_other(self.count))

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


def every_other(handler: Callable[[EventStepContext], None]) -> Callable[[EventStepContext], None]:
    def call(ctx: EventStepContext) -> None:
        if ctx.stepper.is_due(2):
            handler(ctx)

    return call


# E[d9d-unregistered]: "WrongSuper" never registers its handler "greet" of EVENT_TRAIN_READY ("train.ready"), so nothing
#   calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongSuper(Parent):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super(Parent, self).register_events(ctx)

    # E[d9d-unregistered]: "WrongSuper" never registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class RightSuperOfCell(Parent):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super(__class__, self).register_events(ctx)  # noqa: UP008 -- what is tested

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class RightSuper(Parent):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super(RightSuper, self).register_events(ctx)  # noqa: UP008 -- what is tested

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


@dataclasses.dataclass(kw_only=True)
class WrongDataclass(TrainTask):
    period_steps: int = 10

    # E[d9d-unregistered]: "WrongDataclass" never registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class WrongPrivate(TrainTask):
    # E[d9d-unregistered]: "WrongPrivate" never registers its handler "__count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def __count(self, ctx: EventStepContext) -> None: ...


class RightYieldsOn(TrainTask):
    def parts(self) -> Iterator[object]:
        yield from [self]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for part in self.parts():
            subscribe_annotated(ctx.event_bus, part)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class RegistersItself:
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongMixinAfterTask(TrainTask, RegistersItself):
    # E[d9d-unregistered]: "WrongMixinAfterTask" has "register_events" from its base of d9d, which does nothing and
    #   comes before "RegistersItself", so nothing registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"): name "RegistersItself" first in its bases
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class Plain(TrainTask): ...


class WrongMixinAfterBaseClass(Plain, RegistersItself):
    # E[d9d-unregistered]: "WrongMixinAfterBaseClass" has "register_events" from its base of d9d, which does nothing and
    #   comes before "RegistersItself", so nothing registers its handler "count" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"): name "RegistersItself" first in its bases
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class Counts(RegistersItself):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


# E[d9d-unregistered]: "WrongMixinAfterProvider" has "register_events" from its base of d9d, which does nothing and
#   comes before "RegistersItself", so nothing registers its handler "count" of EVENT_TRAIN_STEP_POST
#   ("train.step.post"): name "RegistersItself" first in its bases
class WrongMixinAfterProvider(ModelProvider, Counts):
    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        raise NotImplementedError


class RightMixinFirst(RegistersItself, TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class RegistersTask(BaseTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class RightMixinOfTasks(TrainTask, RegistersTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...
