"""Triggering an event calls the handlers that subscribed to it."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from d9d.loop.event import Event, EventBus


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedContext:
    step: int
    path: Path = Path("/checkpoints")


TContext = TypeVar("TContext")

EVENT_SAVED = Event[SavedContext](id="user.saved")
EVENT_SAVE_PRE = Event[SavedContext](id="user.save.pre")
EVENT_SAVE_POST = Event[SavedContext](id="user.save.post")

CONTEXT = SavedContext(step=3)


class Trigger(Protocol):
    """One of the ways in which an event is triggered."""

    def __call__(self, bus: EventBus, event: Event[TContext], context: TContext, /) -> None: ...


def plainly(bus: EventBus, event: Event[TContext], context: TContext, /) -> None:
    bus.trigger(event, context)


def before_a_block(bus: EventBus, event: Event[TContext], context: TContext, /) -> None:
    with bus.bounded(event, Event[TContext](id="user.after"), context):
        pass


def after_a_block(bus: EventBus, event: Event[TContext], context: TContext, /) -> None:
    with bus.bounded(Event[TContext](id="user.before"), event, context):
        pass


def by_an_emitter(bus: EventBus, event: Event[TContext], context: TContext, /) -> None:
    bus.emitter(event).call(context)


@pytest.fixture(name="trigger", params=[plainly, before_a_block, after_a_block, by_an_emitter])
def _trigger(request: pytest.FixtureRequest) -> Trigger:
    """Run each test with each way to trigger an event; handlers cannot tell them apart."""
    trigger: Trigger = request.param
    return trigger


@pytest.fixture(name="bus")
def _bus() -> EventBus:
    return EventBus()


def fail(error: BaseException) -> Callable[[SavedContext], None]:
    """Make a handler that raises."""

    def failing_handler(ctx: SavedContext) -> None:
        raise error

    return failing_handler


def note(seen: list[str], name: str) -> Callable[[object], None]:
    """Make a handler that records its call."""
    return lambda _: seen.append(name)


def test_a_handler_receives_the_context_object_itself(bus: EventBus, trigger: Trigger) -> None:
    """The context is not copied."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert len(seen) == 1
    assert seen[0] is CONTEXT


def test_handlers_run_in_the_order_in_which_they_subscribed(bus: EventBus, trigger: Trigger) -> None:
    """Their names do not matter."""
    seen: list[str] = []
    for name in ("c", "a", "b"):
        bus.subscribe(EVENT_SAVED, note(seen, name))

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert seen == ["c", "a", "b"]


def test_a_handler_that_subscribes_twice_runs_twice(bus: EventBus, trigger: Trigger) -> None:
    """`subscribe` does not look for duplicates."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)
    bus.subscribe(EVENT_SAVED, seen.append)

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert seen == [CONTEXT, CONTEXT]


def test_an_event_without_handlers_is_silent(bus: EventBus, trigger: Trigger) -> None:
    """Triggering it does nothing."""
    trigger(bus, EVENT_SAVED, CONTEXT)


def test_a_handler_hears_only_its_own_event(bus: EventBus, trigger: Trigger) -> None:
    """Even if other events have the same type of context."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVE_PRE, seen.append)

    trigger(bus, EVENT_SAVED, CONTEXT)
    trigger(bus, EVENT_SAVE_POST, CONTEXT)

    assert seen == []


def test_buses_are_independent(bus: EventBus, trigger: Trigger) -> None:
    """A handler on one bus does not hear the other."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)

    trigger(EventBus(), EVENT_SAVED, CONTEXT)

    assert seen == []


def test_the_first_exception_stops_the_rest_and_propagates_as_the_same_object(bus: EventBus, trigger: Trigger) -> None:
    """The exception is not wrapped, so callers can catch it by its type."""
    seen: list[SavedContext] = []
    error = LookupError("no disk")
    bus.subscribe(EVENT_SAVED, seen.append)
    bus.subscribe(EVENT_SAVED, fail(error))
    bus.subscribe(EVENT_SAVED, seen.append)

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value is error
    assert seen == [CONTEXT]


def test_an_exception_names_the_event_and_the_handler(bus: EventBus, trigger: Trigger) -> None:
    """A note says where in the run the exception came from."""
    bus.subscribe(EVENT_SAVED, fail(LookupError("no disk")))

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value.__notes__ == [
        f"while event 'user.saved' was handled by {__name__}.fail.<locals>.failing_handler"
    ]


def test_an_exception_from_a_nested_trigger_names_each_event(bus: EventBus, trigger: Trigger) -> None:
    """The innermost event comes first."""
    bus.subscribe(EVENT_SAVED, lambda ctx: trigger(bus, EVENT_SAVE_POST, ctx))
    bus.subscribe(EVENT_SAVE_POST, fail(LookupError()))

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert [note.split("'")[1] for note in caught.value.__notes__] == ["user.save.post", "user.saved"]


def test_a_failing_partial_is_named_by_its_function(bus: EventBus, trigger: Trigger) -> None:
    """The note names the wrapped function, since a `functools.partial` has no name."""

    def handler(error: Exception, ctx: SavedContext) -> None:
        raise error

    bus.subscribe(EVENT_SAVED, functools.partial(handler, LookupError()))

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value.__notes__[0].endswith(".handler")


def test_a_bus_works_after_an_exception(bus: EventBus, trigger: Trigger) -> None:
    """The next trigger calls all handlers again."""
    failing = [True]
    seen: list[SavedContext] = []

    def handler(ctx: SavedContext) -> None:
        if failing:
            failing.clear()
            raise LookupError

    bus.subscribe(EVENT_SAVED, handler)
    bus.subscribe(EVENT_SAVED, seen.append)
    with pytest.raises(LookupError):
        trigger(bus, EVENT_SAVED, CONTEXT)

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert seen == [CONTEXT]


def test_a_handler_that_subscribes_during_a_trigger_does_not_run_in_that_pass(bus: EventBus, trigger: Trigger) -> None:
    """It is first called by the next trigger."""
    seen: list[SavedContext] = []

    def subscribe_more(_: SavedContext) -> None:
        bus.subscribe(EVENT_SAVED, seen.append)

    bus.subscribe(EVENT_SAVED, subscribe_more)

    trigger(bus, EVENT_SAVED, CONTEXT)
    assert seen == []

    trigger(bus, EVENT_SAVED, CONTEXT)
    assert seen == [CONTEXT]


def test_custom_events_need_no_catalogue(bus: EventBus, trigger: Trigger) -> None:
    """User code may define, handle and trigger its own events."""

    def process_something(bus: EventBus) -> None:
        trigger(bus, EVENT_SAVED, SavedContext(step=1000, path=Path("/checkpoints/step_1000")))

    seen: list[str] = []
    bus.subscribe(EVENT_SAVED, lambda ctx: seen.append(f"{ctx.step} {ctx.path}"))

    process_something(bus)

    assert seen == ["1000 /checkpoints/step_1000"]


def test_a_handler_written_in_c_is_named_like_any_other(bus: EventBus, trigger: Trigger) -> None:
    """Some of them have no `__module__`, and the original exception must not be lost."""
    known: dict[object, None] = {}
    bus.subscribe(EVENT_SAVED, known.__getitem__)

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value.__notes__ == ["while event 'user.saved' was handled by dict.__getitem__"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_names_the_handler_too(bus: EventBus, trigger: Trigger, error: BaseException) -> None:
    """So a traceback of Ctrl+C shows which handler was running."""
    bus.subscribe(EVENT_SAVED, fail(error))

    with pytest.raises(type(error)) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value is error
    assert caught.value.__notes__[0].startswith("while event 'user.saved' was handled by ")


def test_an_error_names_a_value_that_is_not_an_event(bus: EventBus, trigger: Trigger) -> None:
    """Type checkers report it too."""
    with pytest.raises((AttributeError, TypeError), match=r"'str' object has no attribute 'id'|found 'user\.saved'"):
        trigger(bus, "user.saved", CONTEXT)  # type: ignore[arg-type]  # what is tested
