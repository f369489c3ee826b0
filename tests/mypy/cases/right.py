"""Right handlers in many shapes: nothing in this file is an error."""

import abc
import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventReadyContext

from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated

TContext = TypeVar("TContext")
TStep = TypeVar("TStep", bound=EventStepContext)
TSelf = TypeVar("TSelf", bound="Base")
P = ParamSpec("P")


class HasStep(Protocol):
    @property
    def step(self) -> int: ...


def logged(function: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)

    return inner


def run_to_its_end(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(function(*args, **kwargs))

    return inner


class Wider:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def protocol(self, ctx: HasStep) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def union(self, ctx: EventStepContext | EventReadyContext | None) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def base(self, ctx: object) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def anything(self, ctx: Any) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def generic(self, ctx: TContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def bound(self, ctx: TStep) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def star(self, *args: object, **kwargs: object) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def positional_only(self, ctx: EventStepContext, /) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def defaulted(self, ctx: EventStepContext | None = None, *, scale: float = 1.0) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    @logged
    def decorated(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    @run_to_its_end
    async def asynchronous_but_run(self, ctx: EventStepContext) -> None: ...

    @logged
    @subscribe(EVENT_TRAIN_STEP_POST)
    def decorated_on_top(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def never_returns(self, ctx: "EventStepContext") -> None:
        raise NotImplementedError


class Base(abc.ABC):
    @abc.abstractmethod
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self: TSelf, ctx: EventReadyContext) -> None: ...  # noqa: PYI019 - `self` with a type variable


class Derived(Base):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventReadyContext) -> None:
        super().on_ready(ctx)


class Generically(Generic[TContext]):
    def __init__(self, event: Event[TContext]) -> None:
        self._event = event

    def register(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)
        bus.subscribe(self._event, self.handle)
        bus.subscribe(self._event, lambda ctx, again=True: self.handle(ctx))

    def handle(self, ctx: TContext) -> None: ...


class AsValue:
    def note(self, step: int) -> None: ...

    on_step = subscribe(EVENT_TRAIN_STEP_POST)(lambda self, ctx: self.note(ctx.step))


@subscribe(EVENT_TRAIN_STEP_POST)
def keeps_its_type(ctx: EventStepContext, scale: float = 1.0, *, name: str = "") -> None: ...


@run_to_its_end
async def asynchronous_but_run(ctx: EventStepContext) -> None: ...


def register(bus: EventBus, wider: Wider) -> None:
    bus.subscribe(EVENT_TRAIN_STEP_POST, asynchronous_but_run)
    bus.subscribe(EVENT_TRAIN_STEP_POST, wider.asynchronous_but_run)
    bus.subscribe(EVENT_TRAIN_STEP_POST, wider.decorated)


def types_are_kept(wider: Wider, ctx: EventStepContext) -> None:
    keeps_its_type(ctx=ctx, scale=2.0, name="a")
    wider.defaulted(scale=2.0)
    wider.generic(0)
    # E[arg-type]: Argument "scale" to "keeps_its_type" has incompatible type "str"; expected "float"
    keeps_its_type(ctx, scale="2.0")
