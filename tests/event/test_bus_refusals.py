"""What the Event Bus refuses when a handler subscribes, and what it accepts."""

import dataclasses
import functools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from d9d.loop.event import Event, EventBus


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedContext:
    step: int
    path: Path = Path("/checkpoints")


EVENT_SAVED = Event[SavedContext](id="user.saved")

CONTEXT = SavedContext(step=3)


@pytest.fixture(name="bus")
def _bus() -> EventBus:
    return EventBus()


def test_two_events_with_one_id_and_other_contexts_are_refused(bus: EventBus) -> None:
    """The error names the id and both contexts, and says what to do."""
    bus.subscribe(Event[int](id="user.same"), lambda ctx: None)

    with pytest.raises(
        ValueError,
        match=r"id 'user\.same' and the context builtins\.str, but on this bus the context of that id is builtins\.int",
    ):
        bus.subscribe(Event[str](id="user.same"), lambda ctx: None)  # type: ignore[d9d-event-id]  # what is tested


def test_two_events_with_one_id_of_which_one_has_no_known_context_are_one_event(bus: EventBus) -> None:
    """Only types could say more, and the mypy plugin does."""
    heard: list[int] = []
    unknown: Event[int] = Event(id="user.same")
    bus.subscribe(unknown, heard.append)
    bus.subscribe(Event[int](id="user.same"), heard.append)  # type: ignore[d9d-event-id]  # what is tested
    bus.subscribe(unknown, heard.append)

    bus.trigger(unknown, 3)

    assert heard == [3, 3, 3]


def test_a_value_that_is_not_an_event_is_refused(bus: EventBus) -> None:
    """A handler of an id instead of an event would never be called."""
    with pytest.raises(TypeError, match=r"expected an Event, such as an EVENT_… constant.*'user\.saved'"):
        bus.subscribe("user.saved", lambda ctx: None)  # type: ignore[arg-type]  # what is tested


async def _coroutine(ctx: SavedContext) -> None: ...


async def _async_generator(ctx: SavedContext) -> AsyncIterator[None]:
    yield


def _generator(ctx: SavedContext) -> Iterator[None]:
    yield


def _nothing() -> None: ...


def _two(tag: str, ctx: SavedContext) -> None: ...


def _keyword_only(*, ctx: SavedContext) -> None: ...


class _Coroutine:
    async def __call__(self, ctx: SavedContext) -> None: ...

    async def method(self, ctx: SavedContext) -> None: ...


class _Generator:
    def __call__(self, ctx: SavedContext) -> Iterator[None]:
        yield

    def method(self, ctx: SavedContext) -> Iterator[None]:
        yield


class _WithoutContext:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (_coroutine, r"is asynchronous, and the bus does not await it"),
        (_async_generator, r"is asynchronous, and the bus does not await it"),
        (_Coroutine(), r"is asynchronous, and the bus does not await it"),
        (_Coroutine().method, r"is asynchronous, and the bus does not await it"),
        (functools.partial(_coroutine), r"is asynchronous, and the bus does not await it"),
        (functools.partial(_Coroutine()), r"is asynchronous, and the bus does not await it"),
        (functools.partial(_Coroutine().method), r"is asynchronous, and the bus does not await it"),
        (_generator, r"is a generator, and the bus does not iterate it"),
        (_Generator(), r"is a generator, and the bus does not iterate it"),
        (_Generator().method, r"is a generator, and the bus does not iterate it"),
        (functools.partial(_generator), r"is a generator, and the bus does not iterate it"),
        (functools.partial(_Generator()), r"is a generator, and the bus does not iterate it"),
        (_WithoutContext(), r"must accept one argument"),
        (_WithoutContext().method, r"must accept one argument"),
        (_WithoutContext, r"must accept one argument"),
        (_nothing, r"must accept one argument, the context, but its signature is \(\)"),
        (_two, r"must accept one argument"),
        (_keyword_only, r"must accept one argument"),
        (lambda: None, r"must accept one argument"),
        (functools.partial(_two, tag="a"), r"must accept one argument"),
        ("print", r"is not callable"),
    ],
)
def test_a_handler_that_cannot_run_is_refused_when_it_subscribes(bus: EventBus, handler: Any, reason: str) -> None:
    """The error names the handler and the event, before any event is triggered."""
    with pytest.raises(TypeError, match=rf"^handler .* of event 'user\.saved' {reason}"):
        bus.subscribe(EVENT_SAVED, handler)

    bus.trigger(EVENT_SAVED, CONTEXT)


@pytest.mark.parametrize(
    "handler",
    [
        print,
        [].append,
        functools.partial(_two, "a"),
        lambda ctx, tag="a": None,
        lambda *args: None,
        lambda *args, **kwargs: None,
    ],
)
def test_any_callable_with_one_argument_is_accepted(bus: EventBus, handler: Any) -> None:
    """Also built-in functions, partials, and functions with default and star parameters."""
    bus.subscribe(EVENT_SAVED, handler)

    bus.trigger(EVENT_SAVED, CONTEXT)
