"""Handlers whose tag is lost, and handlers that take the context of another event."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventTrainReadyContext


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


def bare(function: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        function(*arguments)

    return call


def copying(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        function(*arguments)

    return call


class Counted:
    def __init__(self, function: Callable[..., None]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *arguments: Any) -> None:
        self.function(*arguments)


@contextmanager
def timed() -> Iterator[None]:
    yield


class WrongDecorators(Registering):
    @bare
    # E[d9d-dropped]: The decorator in line 51 loses the tag of "one", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventStepContext) -> None: ...

    @Counted
    # E[d9d-dropped]: The decorator in line 57 loses the tag of "two", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def two(self, ctx: EventStepContext) -> None: ...

    @functools.cache
    # E[d9d-dropped]: The decorator in line 63 loses the tag of "three", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def three(self, ctx: EventStepContext) -> None: ...


class RightDecorators(Registering):
    @copying
    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    @bare
    def two(self, ctx: EventStepContext) -> None: ...

    @torch.no_grad()
    @timed()
    @subscribe(EVENT_TRAIN_STEP_POST)
    def three(self, ctx: EventStepContext) -> None: ...


class WrongRedefined(Registering):
    # E[d9d-dropped]: "one" is defined again in line 92, so this handler of EVENT_TRAIN_READY ("train.ready") is never
    #   called: give one of the two another name
    @subscribe(EVENT_TRAIN_READY)
    def one(self, ctx: EventTrainReadyContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventStepContext) -> None: ...


class WrongOverride(RightDecorators):
    @torch.no_grad()
    # E[d9d-dropped]: "one" overrides "RightDecorators.one", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def one(self, ctx: EventStepContext) -> None: ...


class WrongAttribute(RightDecorators):
    def __init__(self) -> None:
        # E[d9d-dropped]: This hides "one", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"), but the bus keeps
        #   calling the method of the class: call what you assign from that method, or give it another name
        self.one = lambda ctx: print(ctx)


class WrongNone(RightDecorators):
    # E[d9d-dropped]: "one" overrides "RightDecorators.one", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    one = None


class RightOverride(RightDecorators):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventStepContext) -> None:
        super().one(ctx)


class WrongContexts(Registering):
    # E[d9d-handler]: Handler "one" of EVENT_TRAIN_STEP_POST ("train.step.post") takes "EventTrainReadyContext", but the
    #   event carries "EventStepContext": annotate "ctx" with "EventStepContext"
    @subscribe(EVENT_TRAIN_STEP_POST)
    @copying
    def one(self, ctx: EventTrainReadyContext) -> None: ...

    # E[d9d-handler]: Handler "two" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event carries
    #   "EventTrainReadyContext": annotate "ctx" with "EventTrainReadyContext"
    @subscribe(EVENT_TRAIN_READY)
    def two(self, ctx: "EventStepContext") -> None: ...


# E[d9d-handler]: Handler "wrong_function" of EVENT_TRAIN_STEP_POST ("train.step.post") takes "EventTrainReadyContext",
#   but the event carries "EventStepContext": annotate "moment" with "EventStepContext"
@subscribe(EVENT_TRAIN_STEP_POST)
def wrong_function(moment: EventTrainReadyContext) -> None: ...


class RightContexts(Registering):
    @subscribe(EVENT_TRAIN_READY)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventTrainReadyContext | EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def two(self, ctx: object) -> None: ...


class Plain:
    def one(self, ctx: EventStepContext) -> None: ...


# E[d9d-dropped]: "WrongOrderOfBases" has "one" from its base "Plain", which comes before "RightDecorators" and hides
#   "RightDecorators.one", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"), so it is never called: name
#   "RightDecorators" first, or give one of the two another name
class WrongOrderOfBases(Plain, RightDecorators): ...


class RightOrderOfBases(RightDecorators, Plain): ...


class RightOverrideOfBoth(Plain, RightDecorators):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventStepContext) -> None: ...


class WrongAnnotated(RightDecorators):
    name: str = "annotated"
    # E[d9d-dropped]: "two" overrides "RightDecorators.two", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    two: Any = None


def updating(function: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        function(*arguments)

    call.__dict__.update(function.__dict__)
    return call


def setting(function: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        function(*arguments)

    for name, value in vars(function).items():
        setattr(call, name, value)
    return call


class RightCopied(Registering):
    @updating
    @subscribe(EVENT_TRAIN_STEP_POST)
    def one(self, ctx: EventStepContext) -> None: ...

    @setting
    @subscribe(EVENT_TRAIN_STEP_POST)
    def two(self, ctx: EventStepContext) -> None: ...


class WrongUnrun(Registering):
    # E[d9d-handler]: Handler "one" of EVENT_TRAIN_STEP_POST ("train.step.post") makes a coroutine when it is called,
    #   and nothing runs that: make it a plain function
    @subscribe(EVENT_TRAIN_STEP_POST)
    async def one(self, ctx: EventStepContext) -> None: ...

    # E[d9d-handler]: Handler "two" of EVENT_TRAIN_STEP_POST ("train.step.post") makes a generator when it is called,
    #   and nothing runs that: make it a plain function
    @subscribe(EVENT_TRAIN_STEP_POST)
    def two(self, ctx: EventStepContext) -> Iterator[None]:
        yield

    @contextmanager
    # E[d9d-handler]: Handler "three" of EVENT_TRAIN_STEP_POST ("train.step.post") makes a context manager when it is
    #   called, and nothing runs that: make it a plain function
    @subscribe(EVENT_TRAIN_STEP_POST)
    def three(self, ctx: EventStepContext) -> Iterator[None]:
        yield


class WrongBare(Registering):
    # E[d9d-handler]: @subscribe is used on "one" without an event, and raises a TypeError: name the event, as in
    #   @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe
    def one(self, ctx: EventStepContext) -> None: ...
