"""The Event Bus compared with a simple model of it."""

import functools

from hypothesis import given
from hypothesis import strategies as st

from d9d.loop.event import Event, EventBus
from d9d.loop.event.bus import Emitter

EVENTS = [Event[int](id="user.first"), Event[int](id="user.second"), Event[int](id="user.third")]
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.integers(0, 2), st.integers(0, 99)),
        st.tuples(st.just("subscribe failing"), st.integers(0, 2), st.integers(0, 99)),
        st.tuples(st.just("trigger"), st.integers(0, 2), st.integers(0, 99)),
        st.tuples(st.just("emit"), st.integers(0, 2), st.integers(0, 99)),
    ),
    max_size=30,
)


@given(operations=OPERATIONS)
def test_any_sequence_of_calls_behaves_as_lists_of_handlers_would(operations: list[tuple[str, int, int]]) -> None:
    """Triggers and emitters run the handlers of their event in order, up to the first that fails, and nothing else."""
    bus = EventBus()
    actual: list[tuple[int, int]] = []
    expected: list[tuple[int, int]] = []
    emitters: dict[int, Emitter[int]] = {}  # kept, as loops do
    handlers: dict[int, list[tuple[int, bool]]] = {0: [], 1: [], 2: []}

    def handler(name: int, fails: bool, ctx: int) -> None:  # noqa: FBT001 - bound by position
        actual.append((name, ctx))
        if fails:
            raise LookupError

    for kind, event, number in operations:
        if kind.startswith("subscribe"):
            fails = kind == "subscribe failing"
            bus.subscribe(EVENTS[event], functools.partial(handler, number, fails))
            handlers[event].append((number, fails))
            continue
        failing = [position for position, (_, fails) in enumerate(handlers[event]) if fails]
        reached = handlers[event][: failing[0] + 1] if failing else handlers[event]
        expected += [(name, number) for name, _ in reached]
        try:
            if kind == "emit":
                emitters.setdefault(event, bus.emitter(EVENTS[event])).call(number)
            else:
                bus.trigger(EVENTS[event], number)
            raised = False
        except LookupError:
            raised = True
        assert raised == bool(failing)

    assert actual == expected
