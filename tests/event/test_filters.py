"""Filters that are declared where a handler is subscribed: `every`, `once` and `main_process_only`."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.core.stepper import Stepper
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepContext:
    stepper: Stepper


EVENT_STEP = Event[StepContext](id="user.step", in_step=True)
EVENT_SAVED = Event[StepContext](id="user.saved")


def run(bus: EventBus, total_steps: int, start: int = 0, *, times: int = 1) -> None:
    """Trigger the event in each step, as a loop does, or several times in each step."""
    stepper, emitter = Stepper(total_steps, start), bus.emitter(EVENT_STEP)
    while not stepper.is_finished:
        for _ in range(times):
            emitter.call(StepContext(stepper=stepper))
        stepper.advance()


def is_heard(bus: EventBus) -> bool:
    """Return whether a loop would build a context for the event."""
    emitter = bus.emitter(EVENT_STEP)
    if emitter.handlers:
        emitter.call(StepContext(stepper=Stepper(1)))
        return True
    return False


def steps_in(heard: list[int]) -> Callable[[StepContext], None]:
    """Make a handler that records the steps."""
    return lambda ctx: heard.append(ctx.stepper.current_step)


@given(every=st.integers(1, 12), total_steps=st.integers(1, 30), data=st.data())
def test_every_is_exactly_is_due(every: int, total_steps: int, data: st.DataObject) -> None:
    """In any run, resumed or not, and for events that are triggered several times in a step."""
    start, times = data.draw(st.integers(0, total_steps)), data.draw(st.integers(1, 3))
    heard: list[int] = []
    expected: list[int] = []
    bus = EventBus()
    bus.subscribe(EVENT_STEP, steps_in(heard), every=every)

    def by_hand(ctx: StepContext) -> None:
        if ctx.stepper.is_due(every):
            expected.append(ctx.stepper.current_step)

    bus.subscribe(EVENT_STEP, by_hand)

    run(bus, total_steps, start, times=times)

    assert heard == expected


@given(every=st.integers(1, 5), moments=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=20))
def test_every_needs_no_order_of_steps(every: int, moments: list[tuple[int, int]]) -> None:
    """It looks at the stepper in the context alone, so one bus may serve two loops."""
    heard: list[int] = []
    bus = EventBus()
    bus.subscribe(EVENT_STEP, steps_in(heard), every=every)
    steppers = [Stepper(total_steps, min(step, total_steps - 1)) for total_steps, step in moments]

    for stepper in steppers:
        bus.trigger(EVENT_STEP, StepContext(stepper=stepper))

    assert heard == [stepper.current_step for stepper in steppers if stepper.is_due(every)]


def test_a_handler_that_is_not_due_costs_one_python_call() -> None:
    """So a filter costs less than the `if ctx.stepper.is_due(...)` that it replaces."""
    bus, calls = EventBus(), list[str]()
    bus.subscribe(EVENT_STEP, steps_in([]), every=10)
    emitter, context = bus.emitter(EVENT_STEP), StepContext(stepper=Stepper(100, 3))

    def note(frame: Any, kind: str, _: object) -> None:
        if kind == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        emitter.call(context)
    finally:
        sys.setprofile(None)

    assert calls == ["call", "call_if_due"]


def test_once_calls_a_handler_once() -> None:
    """Its subscription ends with the call."""
    heard: list[int] = []
    bus = EventBus()
    subscription = bus.subscribe(EVENT_STEP, steps_in(heard), once=True)

    run(bus, 3)

    assert heard == [0]
    assert not subscription.is_active
    assert not is_heard(bus)


def test_once_with_every_is_the_first_step_that_is_due() -> None:
    """The handler is not used up by a step that is not due."""
    heard: list[int] = []
    bus = EventBus()
    bus.subscribe(EVENT_STEP, steps_in(heard), every=4, once=True)

    run(bus, 20)

    assert heard == [3]


def test_once_holds_for_a_trigger_within_a_trigger() -> None:
    """The outer trigger has the handler in its list still."""
    heard: list[str] = []
    bus = EventBus()
    context = StepContext(stepper=Stepper(1))

    def trigger_again(ctx: StepContext) -> None:
        if not heard:
            heard.append("first")
            bus.trigger(EVENT_SAVED, ctx)

    bus.subscribe(EVENT_SAVED, trigger_again)
    bus.subscribe(EVENT_SAVED, lambda _: heard.append("once"), once=True)

    bus.trigger(EVENT_SAVED, context)

    assert heard == ["first", "once"]


@pytest.mark.parametrize("is_main", [True, False])
def test_main_process_only_calls_a_handler_in_the_main_process(is_main: bool) -> None:  # noqa: FBT001 -- a parameter
    """Other processes do not call it, and do not build its context."""
    heard: list[int] = []
    bus = EventBus(is_main_process=is_main)
    subscription = bus.subscribe(EVENT_STEP, steps_in(heard), main_process_only=True)

    assert is_heard(bus) == is_main
    assert heard == ([0] if is_main else [])
    assert subscription.is_active


@pytest.mark.parametrize(("rank", "is_main"), [(None, True), ("0", True), ("3", False)])
def test_a_bus_knows_the_main_process_from_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
    rank: str | None,
    is_main: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """`torchrun` sets RANK."""
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    bus = EventBus()
    bus.subscribe(EVENT_STEP, steps_in([]), main_process_only=True)

    assert is_heard(bus) == is_main


def test_filters_of_the_decorator_are_those_of_the_bus() -> None:
    """`subscribe_annotated` passes them on."""
    heard: list[str] = []

    class Target:
        @subscribe(EVENT_STEP, every=2)
        def second(self, ctx: StepContext) -> None:
            heard.append(f"second {ctx.stepper.current_step}")

        @subscribe(EVENT_STEP, once=True)
        def once(self, ctx: StepContext) -> None:
            heard.append(f"once {ctx.stepper.current_step}")

        @subscribe(EVENT_STEP, main_process_only=True)
        def on_main(self, ctx: StepContext) -> None:
            heard.append("main")

    bus = EventBus(is_main_process=False)
    subscribe_annotated(bus, Target())

    run(bus, 4)

    assert heard == ["once 0", "second 1", "second 3"]


def test_the_decorated_function_itself_has_no_filter() -> None:
    """A call of it runs it."""
    heard: list[int] = []

    @subscribe(EVENT_STEP, every=10)
    def handler(ctx: StepContext) -> None:
        heard.append(ctx.stepper.current_step)

    handler(StepContext(stepper=Stepper(100)))

    assert heard == [0]


@pytest.mark.parametrize("event", [EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_FORWARD_BACKWARD_PRE, EVENT_TRAIN_STEP_POST])
def test_events_of_a_step_take_every(event: Event[Any]) -> None:
    """The catalogue says which these are."""
    EventBus().subscribe(event, lambda _: None, every=2)


def test_every_is_refused_outside_a_step() -> None:
    """By the bus and by the decorator; the error says what to do."""
    message = r"every=5 counts steps, but event 'train\.ready' does not lie in a step: leave out `every`, or choose"
    with pytest.raises(ValueError, match=message):
        EventBus().subscribe(EVENT_TRAIN_READY, lambda _: None, every=5)  # type: ignore[d9d-filter]  # what is tested
    with pytest.raises(ValueError, match=message):
        subscribe(EVENT_TRAIN_READY, every=5)  # type: ignore[d9d-filter]  # what is tested


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_at_least_one_step(every: int) -> None:
    """As `is_due` demands it."""
    with pytest.raises(ValueError, match=rf"every must be at least 1 step, but is {every} for event 'user\.step'"):
        EventBus().subscribe(EVENT_STEP, steps_in([]), every=every)


@pytest.mark.parametrize("every", [True, False, 2.5, "3"])
def test_every_is_an_integer(every: Any) -> None:
    """By the bus and by the decorator; a boolean counts no steps."""
    message = rf"every is a number of steps, but is {every!r} for event 'user\.step': pass an integer"
    with pytest.raises(TypeError, match=message):
        EventBus().subscribe(EVENT_STEP, steps_in([]), every=every)
    with pytest.raises(TypeError, match=message):
        subscribe(EVENT_STEP, every=every)


def test_an_error_in_a_filtered_handler_names_the_handler() -> None:
    """And not what filters it."""

    def failing(ctx: StepContext) -> None:
        raise LookupError

    for filters in ({"every": 1}, {"once": True}):
        bus = EventBus()
        bus.subscribe(EVENT_STEP, failing, **filters)
        with pytest.raises(LookupError) as caught:
            bus.trigger(EVENT_STEP, StepContext(stepper=Stepper(1)))
        assert caught.value.__notes__ == [f"while event 'user.step' was handled by {__name__}.{failing.__qualname__}"]
