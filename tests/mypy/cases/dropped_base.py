"""Classes with handlers in another module, for the cases of `d9d-dropped`."""

import abc
from typing import Generic, TypeVar

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE

from d9d.loop.event import EventBus, subscribe, subscribe_annotated

TContext = TypeVar("TContext")


class Log:
    @subscribe(EVENT_TRAIN_STEP_PRE)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    def attach(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)


class TaggedLog(Log):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def on_step(self, ctx: EventStepContext) -> None: ...


class Plain:
    """Has a method of the same name, and no handlers."""

    def on_step(self, ctx: EventStepContext) -> None: ...


class AbstractLog(abc.ABC):
    @abc.abstractmethod
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class GenericLog(Generic[TContext]):
    @subscribe([EVENT_TRAIN_STEP_POST][0])
    def on_step(self, ctx: EventStepContext) -> None: ...

    def note(self, ctx: TContext) -> None: ...


class OneByOne:
    """Registers whatever `self.on_step` is, handler or not."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    def attach(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)
