"""Decorators above `@subscribe`: some return something that does not have the handler's tag."""

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from lost_tag_base import kept_elsewhere, lost_elsewhere
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST

from d9d.loop.event import subscribe

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[[Any, EventStepContext], None]


def bare(function: Handler) -> Handler:
    def call(self: Any, ctx: EventStepContext) -> None:
        function(self, ctx)

    return call


def named(name: str) -> Callable[[Handler], Handler]:
    def decorate(function: Handler) -> Handler:
        def call(self: Any, ctx: EventStepContext) -> None:
            function(name, ctx)

        return call

    return decorate


class Counted(Generic[P]):
    def __init__(self, function: Callable[P, None]) -> None:
        self.function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        self.function(*args, **kwargs)


def same(function: T) -> T:
    return function


def wrapped(function: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)

    return call


def copied(function: Handler) -> Handler:
    def call(self: Any, ctx: EventStepContext) -> None:
        function(self, ctx)

    call.__dict__.update(function.__dict__)
    return call


def perhaps(function: Handler) -> Handler:
    def call(self: Any, ctx: EventStepContext) -> None:
        function(self, ctx)

    if __debug__:
        return call
    return function


class Wrong:
    @bare
    # E[d9d-dropped]: The decorator in line 73 loses the tag of "by_function", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_function(self, ctx: EventStepContext) -> None: ...

    @same
    @named("name")
    # E[d9d-dropped]: The decorator in line 80 loses the tag of "by_factory", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_factory(self, ctx: EventStepContext) -> None: ...

    @Counted
    # E[d9d-dropped]: The decorator in line 86 loses the tag of "by_class", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_class(self, ctx: EventStepContext) -> None: ...

    @functools.lru_cache(maxsize=1)  # noqa: B019
    # E[d9d-dropped]: The decorator in line 92 loses the tag of "by_cache", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_cache(self, ctx: EventStepContext) -> None: ...


class Right:
    @same
    @wrapped
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_wraps(self, ctx: EventStepContext) -> None: ...

    @copied
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_copy(self, ctx: EventStepContext) -> None: ...

    @perhaps
    @subscribe(EVENT_TRAIN_STEP_POST)
    def by_condition(self, ctx: EventStepContext) -> None: ...

    @kept_elsewhere
    @subscribe(EVENT_TRAIN_STEP_POST)
    def elsewhere(self, ctx: EventStepContext) -> None: ...

    @lost_elsewhere
    # E[d9d-dropped]: The decorator in line 117 loses the tag of "not_seen", a handler of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so it is never called: put @subscribe above the decorator, or use functools.wraps in it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def not_seen(self, ctx: EventStepContext) -> None: ...

    @staticmethod
    @subscribe(EVENT_TRAIN_STEP_POST)
    def without_self(ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    @bare
    def above(self, ctx: EventStepContext) -> None: ...
