"""Overrides of handlers: those without the decorator, which are never called, and those with it."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from dropped_base import AbstractLog, GenericLog, Log, OneByOne, Plain, TaggedLog
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventReadyContext
from typing_extensions import override

from d9d.loop.event import EventBus, subscribe

P = ParamSpec("P")


def show(*values: object) -> None: ...


def logged(function: Callable[P, None]) -> Callable[P, None]:
    return function


def on_each_step(function: Callable[[Any, EventStepContext], None]) -> Callable[[Any, EventStepContext], None]:
    return subscribe(EVENT_TRAIN_STEP_POST)(function)


# docs: d9d-dropped
class Timer:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongTimer(Timer):
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightTimer(Timer):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


# docs: end


class ToldOfItsBase(WrongTimer):
    """Inherits the mistake."""


class ToldOfItsBaseOnce(WrongTimer):
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongOfAnotherModule(Log):
    @override
    # E[d9d-dropped]: "on_step" overrides "Log.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post") and
    #   EVENT_TRAIN_STEP_PRE ("train.step.pre"), without @subscribe, so it is never called: decorate the override with
    #   @subscribe(EVENT_TRAIN_STEP_POST and EVENT_TRAIN_STEP_PRE) too, or give it another name
    def on_step(self, ctx: EventStepContext) -> None:
        super().on_step(ctx)


class WrongOfTagged(TaggedLog):
    # E[d9d-dropped]: "on_step" overrides "TaggedLog.on_step", a handler of EVENT_TRAIN_STEP_PRE ("train.step.pre"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_PRE) too, or
    #   give it another name
    def on_step(self, context: EventStepContext | None) -> None: ...


class WrongAbstract(AbstractLog):
    # E[d9d-dropped]: "on_step" overrides "AbstractLog.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongGeneric(GenericLog[int]):
    # E[d9d-dropped]: "on_step" overrides "GenericLog.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongUntyped(Log):
    # E[d9d-dropped]: "on_step" overrides "Log.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post") and
    #   EVENT_TRAIN_STEP_PRE ("train.step.pre"), without @subscribe, so it is never called: decorate the override with
    #   @subscribe(EVENT_TRAIN_STEP_POST and EVENT_TRAIN_STEP_PRE) too, or give it another name
    def on_step(self, ctx): ...


class WrongDecorated(Timer):
    @torch.no_grad()
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongStatic(Timer):
    @staticmethod
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def on_step(ctx: EventStepContext) -> None: ...


class WrongProperty(Timer):
    @property
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def on_step(self) -> Callable[[EventStepContext], None]:
        raise NotImplementedError


class WrongValues(Timer):
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    on_step = lambda self, ctx: None  # noqa: E731


class WrongNothing(Timer):
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    on_step: Any = None


# E[d9d-dropped]: "WrongHidden" has "on_step" from its base "Plain", which comes before "Log" and hides "Log.on_step", a
#   handler of EVENT_TRAIN_STEP_POST ("train.step.post") and EVENT_TRAIN_STEP_PRE ("train.step.pre"), so it is never
#   called: name "Log" first, or give one of the two another name
class WrongHidden(Plain, Log): ...


class ToldOfTheHidden(WrongHidden): ...


def local() -> None:
    class WrongLocal(Log):
        # E[d9d-dropped]: "on_step" overrides "Log.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post") and
        #   EVENT_TRAIN_STEP_PRE ("train.step.pre"), without @subscribe, so it is never called: decorate the override
        #   with @subscribe(EVENT_TRAIN_STEP_POST and EVENT_TRAIN_STEP_PRE) too, or give it another name
        def on_step(self, ctx: EventStepContext) -> None: ...


class ToldByMypyItself(Timer):
    # E[assignment]: Incompatible types in assignment (expression has type "None", base class "Timer" defined the type
    #   as "Callable[[EventStepContext], None]")
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    on_step = None


class ToldByMypyAsWell(Timer):
    # E[d9d-dropped]: "on_step" overrides "Timer.on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    # E[override]: Return type "int" of "on_step" incompatible with return type "None" in supertype "Timer"
    def on_step(self, ctx: EventStepContext) -> int:
        return 0


class RightTagged(Log):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    @override
    def on_step(self, ctx: EventStepContext) -> None:
        super().on_step(ctx)


class RightOfAnotherEvent(WrongTimer):
    """Is called, though what is between it and the first handler would not be."""

    @subscribe(EVENT_TRAIN_READY)
    def on_step(self, ctx: EventReadyContext | EventStepContext) -> None: ...


class RightHandlerFirst(Log, Plain): ...


class RightHiddenButTagged(Plain, Log):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightAssigned(Timer):
    on_step = subscribe(EVENT_TRAIN_STEP_POST)(lambda self, ctx: show(ctx))


class RightAlias(Timer):
    """Both names are one handler."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_any_step(self, ctx: EventStepContext) -> None: ...

    on_step = on_any_step


class RightByDecorator(Timer):
    """Another decorator than `subscribe` may subscribe as well."""

    @on_each_step
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightTwice(Timer):
    @logged
    @subscribe(EVENT_TRAIN_STEP_POST)
    @logged
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightConditional(Timer):
    if __debug__:

        @subscribe(EVENT_TRAIN_STEP_POST)
        def on_step(self, ctx: EventStepContext) -> None: ...

    else:

        @subscribe(EVENT_TRAIN_STEP_PRE)
        def on_step(self, ctx: EventStepContext) -> None: ...


class RightDeclared(Timer):
    """Says what the type is, and overrides nothing."""

    on_step: Any


class RightRegisteredByItsBase(OneByOne):
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightRegisteredByItself(Timer):
    def attach(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)

    def on_step(self, ctx: EventStepContext) -> None: ...


class RightByPartial(Timer):
    def attach(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(self.on_step))

    def on_step(self, ctx: EventStepContext) -> None: ...


class RightOtherMethod(Timer):
    def on_other_step(self, ctx: EventStepContext) -> None:
        self.on_step(ctx)


class RightStatic(Timer):
    @staticmethod
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(ctx: EventStepContext) -> None: ...


class RightForCheckersAlone(Timer):
    """Defines nothing when it runs."""

    if TYPE_CHECKING:

        def on_step(self, ctx: EventStepContext) -> None: ...


class Clock:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def tick(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def tock(self, ctx: EventStepContext) -> None: ...


class RightTaggedByCall(Clock):
    def tick(self, ctx: EventStepContext) -> None: ...

    def tock(self, ctx: EventStepContext) -> None: ...

    subscribe(EVENT_TRAIN_STEP_POST)(tick)


subscribe(EVENT_TRAIN_STEP_POST)(RightTaggedByCall.tock)
