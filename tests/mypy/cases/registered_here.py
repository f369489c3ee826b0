"""Tasks that other code of their module registers."""

from collections.abc import Iterable

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
    EventTrainReadyContext,
)


class RightInAFunction(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


def run(bus: EventBus) -> None:
    first, second = RightInAFunction(), RightInATuple()
    subscribe_annotated(bus, first)
    subscribe_annotated(target=(second if first else RightEither()), bus=bus)


class RightInATuple(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightEither(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightParts(TrainTask):
    def __init__(self) -> None:
        self._parts = [RightPart(), RightPart()]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for part in self._parts:
            subscribe_annotated(ctx.event_bus, part)


class RightPart(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightByParameter(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


def register(bus: EventBus, task: RightByParameter) -> None:
    subscribe_annotated(bus, task)


class WrongThroughHelper(TrainTask):
    # E[d9d-unregistered]: "WrongThroughHelper" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


def register_all(bus: EventBus, targets: Iterable[TrainTask]) -> None: ...


class RightCombined(TrainTask):
    def __init__(self) -> None:
        self._inner = WrongThroughHelper()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        register_all(ctx.event_bus, [self._inner])


class WrongPartly(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    # E[d9d-unregistered]: "WrongPartly" never registers its handler "on_ready" of EVENT_TRAIN_READY ("train.ready"), so
    #   nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...


def subscribe_one(bus: EventBus) -> None:
    task = WrongPartly()
    bus.subscribe(EVENT_TRAIN_STEP_POST, task.on_step)


class WrongOnlyMade(TrainTask):
    # E[d9d-unregistered]: "WrongOnlyMade" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


def make() -> list[TrainTask]:
    return [WrongOnlyMade()]


class RightOnlyDerived(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightDerived(RightOnlyDerived):
    """Is registered, with what it inherits."""


def register_derived(bus: EventBus) -> None:
    subscribe_annotated(bus, RightDerived())


class RightInAClosure(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


def registering(other: object) -> list[object]:
    task = RightInAClosure()
    return [other, lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, task.on_step)]
