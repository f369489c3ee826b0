"""The handle that `EventBus.subscribe` returns, the description of a bus, and its guards."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from d9d.loop.event import Event, EventBus, Subscription, subscribe, subscribe_annotated

from .listeners import EVENT_A, EVENT_B, Base, Context

EVENT_STEP = Event[Any](id="user.step", in_step=True)


@pytest.fixture(name="bus")
def _bus() -> EventBus:
    return EventBus()


def note(name: str) -> Callable[[Context], None]:
    """Make a handler that records its call."""
    return lambda ctx: ctx.seen.append(name)


def triggered(bus: EventBus) -> list[str]:
    """Trigger the event in each way, and return the recorded calls of one of them."""
    contexts = [Context(), Context()]
    bus.trigger(EVENT_A, contexts[0])
    bus.emitter(EVENT_A).call(contexts[1])
    assert contexts[0] == contexts[1]
    return contexts[0].seen


def test_an_unsubscribed_handler_is_not_called(bus: EventBus) -> None:
    """The others keep their order. A second call does nothing."""
    subscriptions = [bus.subscribe(EVENT_A, note(name)) for name in "abc"]
    assert triggered(bus) == ["a", "b", "c"]

    subscriptions[1].unsubscribe()
    subscriptions[1].unsubscribe()

    assert triggered(bus) == ["a", "c"]
    assert [subscription.is_active for subscription in subscriptions] == [True, False, True]


def test_one_of_two_subscriptions_of_a_handler_ends(bus: EventBus) -> None:
    """A handle stands for its own subscription."""
    handler = note("a")
    bus.subscribe(EVENT_A, handler)
    second = bus.subscribe(EVENT_A, handler)

    second.unsubscribe()

    assert triggered(bus) == ["a"]


def test_a_handler_that_is_unsubscribed_during_a_trigger_runs_in_that_pass(bus: EventBus) -> None:
    """From the next trigger on it does not."""
    subscriptions: list[Subscription] = []
    bus.subscribe(EVENT_A, lambda _: subscriptions[0].unsubscribe())
    subscriptions.append(bus.subscribe(EVENT_A, note("last")))
    context = Context()

    bus.trigger(EVENT_A, context)
    assert context.seen == ["last"]

    bus.trigger(EVENT_A, context)
    assert context.seen == ["last"]


def test_a_subscription_can_last_for_a_block(bus: EventBus) -> None:
    """Also where the block raises."""

    def block() -> None:
        with bus.subscribe(EVENT_A, note("a")) as subscription:
            assert triggered(bus) == ["a"]
            assert subscription.event is EVENT_A
            raise LookupError

    with pytest.raises(LookupError):
        block()

    assert triggered(bus) == []


def test_an_emitter_without_handlers_left_has_none(bus: EventBus) -> None:
    """So that a loop builds no context again."""
    emitter = bus.emitter(EVENT_A)
    subscription = bus.subscribe(EVENT_A, note("a"))
    assert emitter.handlers

    subscription.unsubscribe()
    emitter.call(Context())

    assert emitter.handlers == ()


def test_an_object_is_no_subscriber_once_its_handlers_are_gone(bus: EventBus) -> None:
    """Its state is not part of the job then."""
    target = Base()
    subscription = bus.subscribe(EVENT_A, target.zulu)
    assert bus.subscribers == [target]

    subscription.unsubscribe()

    assert bus.subscribers == []


def _line_of(function: Callable[..., Any]) -> int:
    return function.__code__.co_firstlineno


def test_a_bus_describes_its_handlers(bus: EventBus) -> None:
    """By event, in the order of the calls, with the place of each and its filter."""

    @dataclasses.dataclass
    class Called:
        def __call__(self, ctx: Context) -> None: ...

    target = Base()
    bus.subscribe(EVENT_B, target.untagged, once=True)
    bus.subscribe(EVENT_STEP, functools.partial(print, "step"), every=10, main_process_only=True)
    subscribe_annotated(bus, target)
    bus.subscribe(EVENT_B, Called())
    bus.subscribe(EVENT_B, functools.partial(target.alpha))

    found = bus.describe()

    assert [(each.event_id, each.position, each.handler.rpartition(".")[2], str(each.filter)) for each in found] == [
        ("user.b", 1, "untagged", "once=True"),
        ("user.b", 2, "Called", ""),
        ("user.b", 3, "alpha", ""),
        ("user.step", 1, "print", "every=10, main_process_only=True"),
        ("user.a", 1, "zulu", ""),
        ("user.a", 2, "alpha", ""),
    ]
    assert [each.line for each in found] == [
        _line_of(Base.untagged),
        _line_of(Called.__call__),
        _line_of(Base.alpha),
        None,
        _line_of(Base.zulu),
        _line_of(Base.alpha),
    ]
    assert found[0].file == Base.untagged.__code__.co_filename
    assert found[3].file is None


def test_a_description_is_a_table() -> None:
    """One line for each handler."""
    bus = EventBus()
    assert str(bus.describe()) == "no handlers"
    bus.subscribe(EVENT_STEP, print, every=10)
    bus.subscribe(EVENT_A, Base().zulu)

    header, first, second = str(bus.describe()).splitlines()

    assert header.split() == ["event", "#", "handler", "defined", "in", "filter"]
    assert first.split() == ["user.step", "1", "builtins.print", "every=10"]
    assert second.endswith(f"listeners.Base.zulu  {Base.zulu.__code__.co_filename}:{_line_of(Base.zulu)}")


def test_a_wrapped_handler_is_described_by_its_definition() -> None:
    """The wrapper of `functools.wraps` is not what its author looks for."""
    bus = EventBus()

    def original(ctx: Context) -> None: ...

    @functools.wraps(original)
    def wrapper(ctx: Context) -> None: ...

    bus.subscribe(EVENT_A, functools.partial(wrapper))

    assert bus.describe()[0].line == _line_of(original)


def test_a_guard_refuses_later_subscriptions(bus: EventBus) -> None:
    """It gets the event and the handler. A refused handler is not subscribed."""
    asked: list[tuple[Event[Any], Callable[[Any], None]]] = []
    bus.subscribe(EVENT_A, note("early"))

    def check(event: Event[Any], handler: Callable[[Any], None]) -> None:
        asked.append((event, handler))
        if event == EVENT_A:
            raise RuntimeError("it is over")

    bus.add_guard(check)
    late = note("late")

    bus.subscribe(EVENT_B, late)
    with pytest.raises(RuntimeError, match="it is over"):
        bus.subscribe(EVENT_A, late)
    with pytest.raises(RuntimeError, match="it is over"):
        subscribe_annotated(bus, Base())

    assert asked[:2] == [(EVENT_B, late), (EVENT_A, late)]
    assert triggered(bus) == ["early"]


def test_a_watch_surrounds_each_call_of_a_handler(bus: EventBus) -> None:
    """Of those that subscribe later too, until it ends. An error still names the handler itself."""
    seen: list[str] = []

    @contextlib.contextmanager
    def watch(subscription: Subscription) -> Iterator[None]:
        seen.append(f"before {subscription.event.id}")
        yield
        seen.append("after")

    def fail(ctx: Context) -> None:
        raise ValueError

    bus.subscribe(EVENT_A, note("early"))
    bus.watch(watch)
    bus.subscribe(EVENT_A, note("late"))

    assert triggered(bus) == ["early", "late"]
    assert seen == [f"before {EVENT_A.id}", "after"] * 2 * 2  # two handlers, triggered in two ways
    with bus.subscribe(EVENT_A, fail), pytest.raises(ValueError) as caught:  # noqa: PT011 -- its note is what matters
        triggered(bus)
    assert fail.__qualname__ in caught.value.__notes__[0]

    bus.watch(None)
    seen.clear()
    assert triggered(bus) == ["early", "late"]
    assert seen == []


def test_a_decorated_handler_keeps_its_filter_on_each_bus() -> None:
    """`once` counts for each bus."""

    class Target:
        @subscribe(EVENT_STEP, once=True)
        def on_step(self, ctx: list[str]) -> None:
            ctx.append("called")

    target, seen = Target(), list[str]()
    for _ in range(2):
        bus = EventBus()
        subscribe_annotated(bus, target)
        bus.trigger(EVENT_STEP, seen)
        bus.trigger(EVENT_STEP, seen)

    assert seen == ["called", "called"]
