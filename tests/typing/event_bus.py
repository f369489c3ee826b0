"""What type checkers infer about the Event Bus. This file is type-checked and never run.

A line that is wrong on purpose ignores the code of its error; mypy reports an ignore comment that is not needed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, assert_type

from d9d.loop.event import Event, EventBus, Subscription, subscribe, subscribe_annotated
from d9d.loop.event.bus import Bounded, Emitter
from d9d.loop.event.subscription import SubscribeDecorator

TContext = TypeVar("TContext")


@dataclasses.dataclass(kw_only=True)
class Context:
    step: int


@dataclasses.dataclass(kw_only=True)
class DetailedContext(Context):
    name: str


@dataclasses.dataclass(kw_only=True)
class OtherContext:
    name: str


EVENT = Event[Context](id="user.moment")
EVENT_AFTER = Event[Context](id="user.moment_after")
EVENT_STEP: Event[Context] = Event(id="user.step", in_step=True)
EVENT_DETAILED: Event[DetailedContext] = Event(id="user.detailed")
EVENT_OTHER = Event[OtherContext](id="user.other")

CONTEXT, DETAILED, OTHER = Context(step=0), DetailedContext(step=0, name=""), OtherContext(name="")


def takes_step(step: int) -> None: ...


def takes_wider(event: Event[object]) -> None: ...


def takes_narrower(event: Event[DetailedContext]) -> None: ...


def events_are_invariant() -> None:
    assert_type(EVENT, Event[Context])
    assert_type(EVENT.id, str)
    Event(id=0)  # type: ignore[arg-type]
    Event("user.first")  # type: ignore[call-arg]
    takes_wider(EVENT)  # type: ignore[arg-type]
    takes_narrower(EVENT)  # type: ignore[arg-type]


def trigger_takes_the_context_of_the_event(bus: EventBus) -> None:
    bus.trigger(EVENT, CONTEXT)
    bus.trigger(EVENT, DETAILED)
    bus.trigger(EVENT, OTHER)  # type: ignore[d9d-context]
    bus.trigger(EVENT_DETAILED, CONTEXT)  # type: ignore[d9d-context]
    bus.trigger(EVENT)  # type: ignore[call-arg]


def bounded_takes_two_events_of_one_context(bus: EventBus) -> None:
    assert_type(bus.bounded(EVENT, EVENT_AFTER, CONTEXT), Bounded[Context])
    with bus.bounded(EVENT, EVENT_AFTER, DETAILED):
        pass
    with bus.bounded(EVENT, EVENT_AFTER, OTHER):  # type: ignore[d9d-context]
        pass
    with bus.bounded(EVENT, EVENT_OTHER, CONTEXT):  # type: ignore[misc]
        pass


def an_emitter_takes_the_context_of_its_event(bus: EventBus) -> None:
    emitter = bus.emitter(EVENT)
    assert_type(emitter, Emitter[Context])
    assert_type(emitter.handlers, tuple[Callable[[Context], None], ...])
    emitter.call(CONTEXT)
    emitter.call(DETAILED)
    emitter.call(OTHER)  # type: ignore[d9d-context]
    emitter.call()  # type: ignore[call-arg]
    emitter(CONTEXT)  # type: ignore[operator]
    bus.emitter(EVENT_DETAILED).call(CONTEXT)  # type: ignore[d9d-context]
    bus.emitter("user.moment").call(CONTEXT)  # type: ignore[arg-type]


class Target:
    @subscribe(EVENT)
    def on_event(self, ctx: Context, scale: float = 1.0) -> None: ...

    @subscribe(EVENT_DETAILED)
    def on_wider(self, ctx: Context) -> None: ...

    @subscribe(EVENT_DETAILED)  # type: ignore[d9d-handler]
    def on_wrong(self, ctx: OtherContext) -> None: ...

    @subscribe(EVENT)  # type: ignore[d9d-handler]
    def on_narrower(self, ctx: DetailedContext) -> None: ...

    @subscribe(EVENT)
    @staticmethod
    def on_static(ctx: Context) -> None: ...


@subscribe(EVENT)
def on_event(ctx: Context, *, scale: float = 1.0) -> None: ...


@subscribe(EVENT)  # type: ignore[d9d-handler]
def on_wrong(ctx: OtherContext) -> None: ...


def decorated_handlers_keep_their_type(target: Target, bus: EventBus) -> None:
    assert_type(subscribe(EVENT), SubscribeDecorator[Context])
    bus.trigger(EVENT_STEP, CONTEXT)
    assert_type(subscribe(EVENT_STEP, every=10, once=True, main_process_only=True), SubscribeDecorator[Context])
    target.on_event(ctx=CONTEXT, scale=2.0)
    target.on_event(CONTEXT, scale="")  # type: ignore[arg-type]
    on_event(ctx=CONTEXT, scale=2.0)
    on_event(CONTEXT, 2.0)  # type: ignore[call-arg]
    on_wrong(name="")  # type: ignore[call-arg]


def subscribe_takes_what_accepts_the_context(bus: EventBus, target: Target) -> None:
    assert_type(bus.subscribe(EVENT, target.on_event), Subscription)
    with bus.subscribe(EVENT_STEP, on_event, every=10, once=True, main_process_only=True) as subscription:
        assert_type(subscription, Subscription)
    bus.subscribe(EVENT, on_wrong, once=True)  # type: ignore[d9d-handler]
    bus.subscribe(EVENT_STEP, on_event, every="10")  # type: ignore[arg-type]
    subscribe(EVENT, optional="yes")  # type: ignore[arg-type]
    bus.subscribe(EVENT, on_event)
    bus.subscribe(EVENT, lambda ctx: takes_step(assert_type(ctx, Context).step))
    bus.subscribe(EVENT, on_wrong)  # type: ignore[d9d-handler]
    bus.subscribe(EVENT, lambda: None)  # type: ignore[d9d-handler]


def generic_code_passes_contexts_through(
    bus: EventBus, event: Event[TContext], handler: Callable[[TContext], None], context: TContext
) -> None:
    bus.subscribe(event, handler)
    bus.trigger(event, context)
    bus.emitter(event).call(context)
    with bus.bounded(event, event, context):
        pass


def objects_of_any_kind_can_be_registered(bus: EventBus, target: object, anything: Any) -> None:
    subscribe_annotated(bus, target)
    subscribe_annotated(bus, anything)
    subscribe_annotated(target, bus)  # type: ignore[arg-type]
