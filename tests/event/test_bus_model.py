"""The Event Bus compared with a simple model of it."""

import dataclasses
import functools

from hypothesis import given
from hypothesis import strategies as st

from d9d.loop.event import Event, EventBus, Subscription
from d9d.loop.event.bus import Emitter

EVENTS = [Event[int](id="user.first"), Event[int](id="user.second"), Event[int](id="user.third")]
KINDS = ("subscribe", "subscribe once", "subscribe failing", "unsubscribe", "trigger", "emit")
OPERATIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 99)), max_size=30)


@dataclasses.dataclass(eq=False)
class Modelled:
    """A handler in the model."""

    name: int
    fails: bool
    is_once: bool
    subscription: Subscription


@given(operations=OPERATIONS)
def test_any_sequence_of_calls_behaves_as_lists_of_handlers_would(operations: list[tuple[str, int, int]]) -> None:
    """Triggers and emitters run the handlers of their event in order, up to the first that fails, and nothing else."""
    bus = EventBus()
    actual: list[tuple[int, int]] = []
    expected: list[tuple[int, int]] = []
    emitters: dict[int, Emitter[int]] = {}  # kept, as loops do
    handlers: dict[int, list[Modelled]] = {0: [], 1: [], 2: []}

    def handler(name: int, fails: bool, ctx: int) -> None:  # noqa: FBT001 - bound by position
        actual.append((name, ctx))
        if fails:
            raise LookupError

    for kind, event, number in operations:
        if kind.startswith("subscribe"):
            fails, once = kind == "subscribe failing", kind == "subscribe once"
            subscription = bus.subscribe(EVENTS[event], functools.partial(handler, number, fails), once=once)
            handlers[event].append(Modelled(number, fails, once, subscription))
        elif kind == "unsubscribe":
            if handlers[event]:
                handlers[event].pop(number % len(handlers[event])).subscription.unsubscribe()
        else:
            failing = [position for position, each in enumerate(handlers[event]) if each.fails]
            reached = handlers[event][: failing[0] + 1] if failing else [*handlers[event]]
            expected += [(each.name, number) for each in reached]
            handlers[event] = [each for each in handlers[event] if not (each.is_once and each in reached)]
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
    assert sorted(map(id, bus.subscriptions)) == sorted(
        id(each.subscription) for own in handlers.values() for each in own
    )
    assert len(bus.describe()) == len(bus.subscriptions)
