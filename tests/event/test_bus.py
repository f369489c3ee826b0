"""The Event Bus: what subscribing and triggering mean."""

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
    """Run each test once with each of the paths through the bus, which are the same to handlers."""
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
    """Make a handler that tells it has run."""
    return lambda _: seen.append(name)


def test_a_handler_receives_the_very_context_that_was_triggered(bus: EventBus, trigger: Trigger) -> None:
    """The context is handed over, not copied."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert len(seen) == 1
    assert seen[0] is CONTEXT


def test_handlers_run_in_the_order_in_which_they_subscribed(bus: EventBus, trigger: Trigger) -> None:
    """Neither names nor identities decide the order."""
    seen: list[str] = []
    for name in ("c", "a", "b"):
        bus.subscribe(EVENT_SAVED, note(seen, name))

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert seen == ["c", "a", "b"]


def test_a_handler_that_subscribes_twice_runs_twice(bus: EventBus, trigger: Trigger) -> None:
    """Manual registration is taken literally."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)
    bus.subscribe(EVENT_SAVED, seen.append)

    trigger(bus, EVENT_SAVED, CONTEXT)

    assert seen == [CONTEXT, CONTEXT]


def test_an_event_without_handlers_is_silent(bus: EventBus, trigger: Trigger) -> None:
    """Nobody has to listen."""
    trigger(bus, EVENT_SAVED, CONTEXT)


def test_events_are_told_apart(bus: EventBus, trigger: Trigger) -> None:
    """A handler hears its own event alone, though others carry the same type of context."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVE_PRE, seen.append)

    trigger(bus, EVENT_SAVED, CONTEXT)
    trigger(bus, EVENT_SAVE_POST, CONTEXT)

    assert seen == []


def test_buses_are_told_apart(bus: EventBus, trigger: Trigger) -> None:
    """Two buses in one process share nothing, not even through an event."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, seen.append)

    trigger(EventBus(), EVENT_SAVED, CONTEXT)

    assert seen == []


def test_the_first_exception_stops_the_rest_and_propagates_as_the_same_object(bus: EventBus, trigger: Trigger) -> None:
    """The bus fails fast and replaces nothing: callers can catch the handler's own exception."""
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
    """The notes read from the innermost moment outwards."""
    bus.subscribe(EVENT_SAVED, lambda ctx: trigger(bus, EVENT_SAVE_POST, ctx))
    bus.subscribe(EVENT_SAVE_POST, fail(LookupError()))

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert [note.split("'")[1] for note in caught.value.__notes__] == ["user.save.post", "user.saved"]


def test_a_failing_partial_is_named_by_its_function(bus: EventBus, trigger: Trigger) -> None:
    """`functools.partial` has no name of its own."""

    def handler(error: Exception, ctx: SavedContext) -> None:
        raise error

    bus.subscribe(EVENT_SAVED, functools.partial(handler, LookupError()))

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value.__notes__[0].endswith(".handler")


def test_a_bus_works_on_after_an_exception(bus: EventBus, trigger: Trigger) -> None:
    """The next trigger starts anew, with all handlers."""
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
    """Dispatch goes over the handlers of the moment at which it began."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVED, lambda _: bus.subscribe(EVENT_SAVED, seen.append))

    trigger(bus, EVENT_SAVED, CONTEXT)
    assert seen == []

    trigger(bus, EVENT_SAVED, CONTEXT)
    assert seen == [CONTEXT]


def test_custom_events_need_no_catalogue(bus: EventBus, trigger: Trigger) -> None:
    """An event may be defined, heard and triggered by user code alone."""

    def process_something(bus: EventBus) -> None:
        trigger(bus, EVENT_SAVED, SavedContext(step=1000, path=Path("/checkpoints/step_1000")))

    seen: list[str] = []
    bus.subscribe(EVENT_SAVED, lambda ctx: seen.append(f"{ctx.step} {ctx.path}"))

    process_something(bus)

    assert seen == ["1000 /checkpoints/step_1000"]


def test_a_handler_written_in_c_is_named_like_any_other(bus: EventBus, trigger: Trigger) -> None:
    """Some of them have no module, and that is no reason to lose the exception."""
    known: dict[object, None] = {}
    bus.subscribe(EVENT_SAVED, known.__getitem__)

    with pytest.raises(LookupError) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value.__notes__ == ["while event 'user.saved' was handled by dict.__getitem__"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_the_process_names_the_handler_too(bus: EventBus, trigger: Trigger, error: BaseException) -> None:
    """An interrupt says in which handler it fell."""
    bus.subscribe(EVENT_SAVED, fail(error))

    with pytest.raises(type(error)) as caught:
        trigger(bus, EVENT_SAVED, CONTEXT)

    assert caught.value is error
    assert caught.value.__notes__[0].startswith("while event 'user.saved' was handled by ")


def test_what_is_no_event_is_named_by_the_error(bus: EventBus, trigger: Trigger) -> None:
    """The type checker refuses it; at run time no other error hides it."""
    with pytest.raises((AttributeError, TypeError), match=r"'str' object has no attribute 'id'|found 'user\.saved'"):
        trigger(bus, "user.saved", CONTEXT)  # type: ignore[arg-type]  # what is tested
