"""Handlers that cannot be called with one context, or whose body would not run."""

# ruff: noqa: N805, PLW0211 - wrong on purpose
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator

from moments.train import EVENT_TRAIN_READY, EventReadyContext

from d9d.loop.event import subscribe


class Task:
    # E[d9d-handler]: Handler "takes_nothing" of EVENT_TRAIN_READY ("train.ready") takes no positional argument, but is
    #   called with "EventReadyContext": add a parameter for it
    @subscribe(EVENT_TRAIN_READY)
    def takes_nothing(self) -> None: ...

    # E[d9d-handler]: Handler "takes_keyword_only" of EVENT_TRAIN_READY ("train.ready") takes no positional argument,
    #   but is called with "EventReadyContext": add a parameter for it
    @subscribe(EVENT_TRAIN_READY)
    def takes_keyword_only(self, *, ctx: EventReadyContext) -> None: ...

    # E[d9d-handler]: Handler "takes_two" of EVENT_TRAIN_READY ("train.ready") requires "scale" as well, but is called
    #   with "EventReadyContext" alone: give it a default, or bind it with functools.partial
    @subscribe(EVENT_TRAIN_READY)
    def takes_two(self, ctx: EventReadyContext, scale: int) -> None: ...

    # E[d9d-handler]: Handler "takes_more" of EVENT_TRAIN_READY ("train.ready") requires "scale" and "name" as well, but
    #   is called with "EventReadyContext" alone: give them a default, or bind them with functools.partial
    @subscribe(EVENT_TRAIN_READY)
    def takes_more(self, ctx: EventReadyContext, *, scale: int, name: str) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    def takes_one(self, ctx: EventReadyContext, scale: int = 1, *, name: str = "") -> None: ...

    @staticmethod
    # E[d9d-handler]: Handler "static_with_self" of EVENT_TRAIN_READY ("train.ready") requires "ctx" as well, but is
    #   called with "EventReadyContext" alone: give it a default, or bind it with functools.partial
    @subscribe(EVENT_TRAIN_READY)
    def static_with_self(self: object, ctx: EventReadyContext) -> None: ...

    # E[d9d-handler]: Handler "without_self" of EVENT_TRAIN_READY ("train.ready") takes no positional argument, but is
    #   called with "EventReadyContext": add a parameter for it
    @subscribe(EVENT_TRAIN_READY)
    def without_self(ctx) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    # E[misc]: "self" parameter missing for a non-static method (or an invalid type for self)
    def told_by_mypy_itself(ctx: EventReadyContext) -> None: ...

    # E[d9d-handler]: Handler "asynchronous" of EVENT_TRAIN_READY ("train.ready") is asynchronous, but the bus does not
    #   await handlers: define it with "def"; a handler takes "EventReadyContext" and returns None
    @subscribe(EVENT_TRAIN_READY)
    async def asynchronous(self, ctx: EventReadyContext) -> None: ...

    # E[d9d-handler]: Handler "asynchronous_generator" of EVENT_TRAIN_READY ("train.ready") is asynchronous, but the bus
    #   does not await handlers: define it with "def"; a handler takes "EventReadyContext" and returns None
    @subscribe(EVENT_TRAIN_READY)
    async def asynchronous_generator(self, ctx: EventReadyContext) -> AsyncIterator[None]:
        yield

    # E[d9d-handler]: Handler "asynchronous_without_annotations" of EVENT_TRAIN_READY ("train.ready") is asynchronous,
    #   but the bus does not await handlers: define it with "def"; a handler takes "EventReadyContext" and returns None
    @subscribe(EVENT_TRAIN_READY)
    async def asynchronous_without_annotations(self, ctx): ...

    # E[d9d-handler]: Handler "awaitable" of EVENT_TRAIN_READY ("train.ready") is asynchronous, but the bus does not
    #   await handlers: define it with "def"; a handler takes "EventReadyContext" and returns None
    @subscribe(EVENT_TRAIN_READY)
    def awaitable(self, ctx: EventReadyContext) -> Awaitable[None]:
        raise NotImplementedError

    # E[d9d-handler]: Handler "generator" of EVENT_TRAIN_READY ("train.ready") is a generator, but the bus does not
    #   iterate over it, so its body never runs: remove the "yield"; a handler takes "EventReadyContext" and returns
    #   None
    @subscribe(EVENT_TRAIN_READY)
    def generator(self, ctx: EventReadyContext) -> Iterator[None]:
        yield

    # E[d9d-handler]: Handler "generator_without_annotations" of EVENT_TRAIN_READY ("train.ready") is a generator, but
    #   the bus does not iterate over it, so its body never runs: remove the "yield"; a handler takes
    #   "EventReadyContext" and returns None
    @subscribe(EVENT_TRAIN_READY)
    def generator_without_annotations(self, ctx):
        yield

    # E[d9d-handler]: Handler "generator_without_result" of EVENT_TRAIN_READY ("train.ready") is a generator, but the
    #   bus does not iterate over it, so its body never runs: remove the "yield"; a handler takes "EventReadyContext"
    #   and returns None
    @subscribe(EVENT_TRAIN_READY)
    def generator_without_result(self, ctx: EventReadyContext):
        yield

    # E[d9d-handler]: Handler "context_manager" of EVENT_TRAIN_READY ("train.ready") returns
    #   "_GeneratorContextManager[None, None, None]", which the bus ignores: a handler takes "EventReadyContext" and
    #   returns None
    @subscribe(EVENT_TRAIN_READY)
    @contextlib.contextmanager
    def context_manager(self, ctx: EventReadyContext) -> Iterator[None]:
        yield

    # E[d9d-handler]: Handler "returns_something" of EVENT_TRAIN_READY ("train.ready") returns "int", which the bus
    #   ignores: a handler takes "EventReadyContext" and returns None
    @subscribe(EVENT_TRAIN_READY)
    def returns_something(self, ctx: EventReadyContext) -> int:
        return 0

    @subscribe(EVENT_TRAIN_READY)
    def returns_nothing(self, ctx: EventReadyContext) -> None: ...


# E[d9d-handler]: Handler "function_with_self" of EVENT_TRAIN_READY ("train.ready") requires "ctx" as well, but is
#   called with "EventReadyContext" alone: give it a default, or bind it with functools.partial
@subscribe(EVENT_TRAIN_READY)
def function_with_self(self: object, ctx: EventReadyContext) -> None: ...


@subscribe(EVENT_TRAIN_READY)
def function(ctx: EventReadyContext) -> None: ...


# E[d9d-handler]: Handler "Class" of EVENT_TRAIN_READY ("train.ready") takes no positional argument, but is called with
#   "EventReadyContext": add a parameter for it
@subscribe(EVENT_TRAIN_READY)
class Class: ...
