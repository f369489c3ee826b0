"""Emitters: objects that trigger one event each, which loops keep."""

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


def test_an_emitter_calls_those_too_that_subscribe_later(bus: EventBus) -> None:
    """Loops ask for it before anybody else has a say."""
    seen: list[str] = []
    emit = bus.emitter(EVENT_SAVED)
    emit.call(CONTEXT)
    for name in ("a", "b"):
        bus.subscribe(EVENT_SAVED, lambda _, name=name: seen.append(name))
        emit.call(CONTEXT)

    assert seen == ["a", "a", "b"]


def test_an_emitter_calls_those_who_subscribed_before(bus: EventBus) -> None:
    """It need not be asked for first."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)

    bus.emitter(EVENT_SAVED).call(CONTEXT)

    assert seen == [CONTEXT]


def test_an_emission_that_goes_on_does_not_call_who_subscribes_meanwhile(bus: EventBus) -> None:
    """Not even if it is triggered again meanwhile."""
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


def test_a_bus_has_one_emitter_an_event(bus: EventBus) -> None:
    """And another bus has another one."""
    assert bus.emitter(EVENT_SAVED) is bus.emitter(EVENT_SAVED)
    assert bus.emitter(EVENT_SAVED) is not EventBus().emitter(EVENT_SAVED)


def test_an_emitter_shows_whether_anybody_listens(bus: EventBus) -> None:
    """A loop looks there before it builds a context."""
    emit = bus.emitter(EVENT_SAVED)
    seen: list[SavedContext] = []
    if emit.handlers:
        emit.call(CONTEXT)
    bus.subscribe(EVENT_SAVED, seen.append)
    if emit.handlers:
        emit.call(CONTEXT)

    assert seen == [CONTEXT]


def test_an_emitter_takes_the_context_and_nothing_else(bus: EventBus) -> None:
    """The type checker says so as well."""
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        bus.emitter(EVENT_SAVED).call(CONTEXT, CONTEXT)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'context'"):
        bus.emitter(EVENT_SAVED).call()  # type: ignore[call-arg]  # what is tested


def test_an_emitter_of_a_second_event_of_an_id_is_refused(bus: EventBus) -> None:
    """Whoever listens to the first would hear the second's context."""
    bus.subscribe(EVENT_SAVED, lambda _: None)

    with pytest.raises(ValueError, match=r"an emitter is asked for a second Event object with the id 'user\.saved'"):
        bus.emitter(Event[int](id="user.saved")).call(3)  # type: ignore[d9d-event-id]  # what is tested


def test_whoever_listens_to_a_second_event_of_an_emitter_s_id_is_refused(bus: EventBus) -> None:
    """The other way round."""
    bus.emitter(EVENT_SAVED).call(CONTEXT)

    with pytest.raises(ValueError, match=r"listens to a second Event object with the id 'user\.saved'"):
        bus.subscribe(Event[int](id="user.saved"), lambda _: None)  # type: ignore[d9d-event-id]  # what is tested


@given(number=st.integers(1, 40), data=st.data())
def test_of_any_number_of_handlers_the_one_that_fails_is_named(number: int, data: st.DataObject) -> None:
    """Those before it have run, those after it have not."""
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
