"""Tests of emitters: an emitter triggers one event, and the loops keep one per event."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.loop.event import Event, EventBus


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedContext:
    step: int


EVENT_SAVED = Event[SavedContext](id="user.saved")
CONTEXT = SavedContext(step=3)


@pytest.fixture(name="bus")
def _bus() -> EventBus:
    return EventBus()


def test_an_emitter_calls_handlers_that_subscribe_later(bus: EventBus) -> None:
    """Handlers that subscribe after the emitter was created are called."""
    seen: list[str] = []
    emit = bus.emitter(EVENT_SAVED)
    emit.call(CONTEXT)
    for name in ("a", "b"):
        bus.subscribe(EVENT_SAVED, lambda _, name=name: seen.append(name))
        emit.call(CONTEXT)

    assert seen == ["a", "a", "b"]


def test_an_emitter_calls_handlers_that_subscribed_before(bus: EventBus) -> None:
    """Handlers that subscribed before the emitter was created are called."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)

    bus.emitter(EVENT_SAVED).call(CONTEXT)

    assert seen == [CONTEXT]


def test_a_running_call_skips_handlers_that_subscribe_during_it(bus: EventBus) -> None:
    """A handler that subscribes during a call is called only from the next call, even if that one is nested."""
    seen: list[str] = []
    emit = bus.emitter(EVENT_SAVED)

    def subscribe_more(ctx: SavedContext) -> None:
        seen.append("first")
        if seen == ["first"]:
            bus.subscribe(EVENT_SAVED, lambda _: seen.append("more"))
            emit.call(ctx)

    bus.subscribe(EVENT_SAVED, subscribe_more)
    bus.subscribe(EVENT_SAVED, lambda _: seen.append("last"))
    emit.call(CONTEXT)

    assert seen == ["first", "first", "last", "more", "last"]


def test_a_bus_has_one_emitter_per_event(bus: EventBus) -> None:
    """The same bus returns the same emitter for an event; another bus returns another."""
    assert bus.emitter(EVENT_SAVED) is bus.emitter(EVENT_SAVED)
    assert bus.emitter(EVENT_SAVED) is not EventBus().emitter(EVENT_SAVED)


def test_handlers_are_empty_until_a_handler_subscribes(bus: EventBus) -> None:
    """A loop can check `handlers` to skip building a context that no handler receives."""
    emit = bus.emitter(EVENT_SAVED)
    seen: list[SavedContext] = []
    if emit.handlers:
        emit.call(CONTEXT)
    bus.subscribe(EVENT_SAVED, seen.append)
    if emit.handlers:
        emit.call(CONTEXT)

    assert seen == [CONTEXT]


def test_an_emitter_takes_the_context_and_nothing_else(bus: EventBus) -> None:
    """`call` takes exactly one argument, at run time and for the type checker."""
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        bus.emitter(EVENT_SAVED).call(CONTEXT, CONTEXT)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'context'"):
        bus.emitter(EVENT_SAVED).call()  # type: ignore[call-arg]  # what is tested


def test_an_emitter_for_a_second_event_with_the_same_id_is_refused(bus: EventBus) -> None:
    """An emitter for an event with a subscribed id and another context raises ValueError."""
    bus.subscribe(EVENT_SAVED, lambda _: None)

    with pytest.raises(ValueError, match=r"an emitter is asked for an event with the id 'user\.saved'"):
        bus.emitter(Event[int](id="user.saved")).call(3)  # type: ignore[d9d-event-id]  # what is tested


def test_subscribing_to_a_second_event_with_the_id_of_an_emitter_is_refused(bus: EventBus) -> None:
    """Subscribing to an event with the id of an existing emitter and another context raises ValueError."""
    bus.emitter(EVENT_SAVED).call(CONTEXT)

    with pytest.raises(ValueError, match=r"listens to an event with the id 'user\.saved'"):
        bus.subscribe(Event[int](id="user.saved"), lambda _: None)  # type: ignore[d9d-event-id]  # what is tested


@given(number=st.integers(1, 40), data=st.data())
def test_the_handler_that_raises_is_named_in_a_note(number: int, data: st.DataObject) -> None:
    """The handlers before the one that raises have run, those after it have not, and the error names it."""
    failing = data.draw(st.integers(0, number - 1))
    bus = EventBus()
    seen: list[int] = []

    def handler(own: int) -> Callable[[SavedContext], None]:
        def run(_: SavedContext) -> None:
            seen.append(own)
            if own == failing:
                raise LookupError

        run.__qualname__ = f"handler {own}"
        return run

    for own in range(number):
        bus.subscribe(EVENT_SAVED, handler(own))

    with pytest.raises(LookupError) as caught:
        bus.emitter(EVENT_SAVED).call(CONTEXT)

    assert seen == list(range(failing + 1))
    assert caught.value.__notes__ == [f"while event 'user.saved' was handled by {__name__}.handler {failing}"]
