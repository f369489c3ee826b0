"""Right and wrong handlers, which several type checkers check.

A case starts at a comment `# wrong: …`, `# silent: …` or `# right: …` and ends at the next. A wrong case is wrong by
type, and every checker should refuse it. A silent case is wrong too, but types cannot express it. Every checker should
accept a right case. A comment below the title names a checker that disagrees, and the reason.
"""

import functools
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from moments.events import fit
from moments.events.fit import (
    EVENT_FIT_READY,
    EVENT_FIT_STEP_POST,
    EVENT_FIT_STEP_PRE,
    EventReadyContext,
    EventStepContext,
)

from d9d import Event, EventBus, subscribe, subscribe_annotated


class DetailedStep:
    def __init__(self, name: str) -> None:
        self.name = name


class LongStep(DetailedStep): ...


class HasStep(Protocol):
    @property
    def step(self) -> int: ...


TStep = TypeVar("TStep", bound=EventStepContext)

EVENT_DETAILED: Event[DetailedStep] = Event(id="user.detailed")
EVENT_MIXED: Event[EventStepContext] = Event(id="user.mixed", in_step=True)


def show(*values: object) -> None: ...


def on_ready(ctx: EventReadyContext) -> None: ...


def on_step(ctx: EventStepContext) -> None: ...


def on_tagged_step(tag: str, ctx: EventStepContext) -> None: ...


async def on_step_later(ctx: EventStepContext) -> None: ...


class Log:
    def on_ready(self, ctx: EventReadyContext) -> None: ...

    def on_step(self, ctx: EventStepContext) -> None: ...


# wrong: a method takes the context of another event
class TakesAnother:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventStepContext) -> None: ...


# wrong: a function takes the context of another event
@subscribe(EVENT_FIT_READY)
def takes_another(ctx: EventStepContext) -> None: ...


# wrong: a static method takes the context of another event
class StaticTakesAnother:
    @staticmethod
    @subscribe(EVENT_FIT_READY)
    def handle(ctx: EventStepContext) -> None: ...


# wrong: a static method, tagged above `@staticmethod`, takes the context of another event
class StaticBelowTakesAnother:
    @subscribe(EVENT_FIT_READY)
    @staticmethod
    def handle(ctx: EventStepContext) -> None: ...


# wrong: a class method takes the context of another event
class ClassTakesAnother:
    @classmethod
    @subscribe(EVENT_FIT_READY)
    def handle(cls, ctx: EventStepContext) -> None: ...


# wrong: a method takes a narrower context than its event carries
class TakesNarrower:
    @subscribe(EVENT_DETAILED)
    def handle(self, ctx: LongStep) -> None: ...


# wrong: a method takes the right context for one of its two events
class TakesOneOfTwo:
    @subscribe(EVENT_FIT_STEP_POST)
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventStepContext) -> None: ...


# wrong: a method takes nothing
class TakesNothing:
    @subscribe(EVENT_FIT_READY)
    def handle(self) -> None: ...


# wrong: a method takes the context as a keyword-only argument
class TakesKeyword:
    @subscribe(EVENT_FIT_READY)
    def handle(self, *, ctx: EventReadyContext) -> None: ...


# wrong: a method requires a second argument
class TakesTwo:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext, scale: float) -> None: ...


# wrong: a method requires a keyword as well
class TakesAKeywordToo:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext, *, scale: float) -> None: ...


# wrong: a function requires a second argument
@subscribe(EVENT_FIT_READY)
def takes_two(ctx: EventReadyContext, scale: float) -> None: ...


# wrong: a method is asynchronous
class Asynchronous:
    @subscribe(EVENT_FIT_READY)
    async def handle(self, ctx: EventReadyContext) -> None: ...


# wrong: a method is a generator
class Generates:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext) -> Iterator[None]:
        yield


# wrong: a method returns something
class Returns:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext) -> int:
        return 0


# wrong: a method with a filter takes the context of another event
class FilteredTakesAnother:
    @subscribe(EVENT_FIT_READY, once=True)
    def handle(self, ctx: EventStepContext) -> None: ...


# wrong: `bus.subscribe` with a filter and a handler of another event
def subscribes_filtered(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, on_step, once=True)


# wrong: a filter that does not exist
class MisspeltFilter:
    @subscribe(EVENT_MIXED, evry=10)
    def handle(self, ctx: EventStepContext) -> None: ...


# wrong: a filter of another type
class FilterOfAnotherType:
    @subscribe(EVENT_MIXED, every="10")
    def handle(self, ctx: EventStepContext) -> None: ...


# wrong: `@subscribe` without an event
class WithoutEvent:
    @subscribe
    def handle(self, ctx: EventReadyContext) -> None: ...


# wrong: a handler reads a field that its context does not have
class ReadsAMisspeltField:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext) -> None:
        show(ctx.num_stepps)


# wrong: a misspelt event
class NamesAMisspeltEvent:
    @subscribe(fit.EVENT_FIT_REDY)
    def handle(self, ctx: EventReadyContext) -> None: ...


# wrong: a misspelt context
class NamesAMisspeltContext:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: fit.EventRedyContext) -> None: ...


# wrong: `bus.subscribe` with a function of another event
def subscribes_another(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, on_step)


# wrong: `bus.subscribe` with a bound method of another event
def subscribes_another_method(bus: EventBus, log: Log) -> None:
    bus.subscribe(EVENT_FIT_READY, log.on_step)


# wrong: `bus.subscribe` with an unbound method
def subscribes_a_method_of_no_object(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, Log.on_ready)


# wrong: `bus.subscribe` with a function that requires two arguments
def subscribes_two(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_STEP_POST, on_tagged_step)


# wrong: `bus.subscribe` with a coroutine function
def subscribes_asynchronous(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_STEP_POST, on_step_later)


# wrong: `bus.subscribe` with the result of a call of a handler
def subscribes_a_result(bus: EventBus, ctx: EventReadyContext) -> None:
    bus.subscribe(EVENT_FIT_READY, on_ready(ctx))


# wrong: a `functools.partial` takes the context of another event
#   accepted by mypy, which lets a partial be called with any arguments
#   accepted by pyrefly, for the same reason
def subscribes_another_partial(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, functools.partial(on_tagged_step, "a"))


# wrong: a lambda takes nothing
def subscribes_a_lambda_of_nothing(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, lambda: None)


# wrong: a lambda requires a second argument
def subscribes_a_lambda_of_two(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, lambda ctx, tag: None)


# wrong: a lambda reads a field that its context does not have
def subscribes_a_lambda_that_reads(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, lambda ctx: show(ctx.step))


# wrong: `trigger` with the context of another event
def triggers_another(bus: EventBus) -> None:
    bus.trigger(EVENT_FIT_READY, EventStepContext(step=0))


# wrong: `trigger` without a context
def triggers_nothing(bus: EventBus) -> None:
    bus.trigger(EVENT_FIT_READY)


# wrong: `bounded` with the context of other events
def bounds_another(bus: EventBus) -> None:
    with bus.bounded(EVENT_FIT_STEP_PRE, EVENT_FIT_STEP_POST, EventReadyContext(num_steps=1)):
        pass


# wrong: `bounded` with two events that carry different contexts
def bounds_two(bus: EventBus) -> None:
    with bus.bounded(EVENT_FIT_STEP_PRE, EVENT_FIT_READY, EventStepContext(step=0)):
        pass


# wrong: an emitter called with the context of another event
def emits_another(bus: EventBus) -> None:
    step_pre = bus.emitter(EVENT_FIT_STEP_PRE)
    step_pre.call(EventReadyContext(num_steps=1))


# wrong: an event passed where an event of a wider context is expected
def passes_wider(bus: EventBus) -> None:
    def listen(event: Event[object]) -> None: ...

    listen(EVENT_FIT_READY)


# wrong: an event whose id is passed by position
EVENT_POSITIONAL = Event[EventStepContext]("user.positional")


# silent: a method whose context has no annotation
class Untyped:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx):
        show(ctx.num_stepps)


# silent: `bus.subscribe` with a function whose context has no annotation
def untyped(ctx):
    show(ctx.num_stepps)


def subscribes_untyped(bus: EventBus) -> None:
    bus.subscribe(EVENT_FIT_READY, untyped)


# silent: a function requires an argument before the context, as if it were a method
@subscribe(EVENT_FIT_READY)
def takes_something_first(tag: str, ctx: EventReadyContext) -> None: ...


# silent: a static method requires an argument before the context
class StaticTakesSomethingFirst:
    @staticmethod
    @subscribe(EVENT_FIT_READY)
    def handle(tag: str, ctx: EventReadyContext) -> None: ...


# silent: an event without a context type
EVENT_BARE: Event = Event(id="user.bare")


# silent: an event in a namespace that the catalogue owns
EVENT_CLAIMED = Event[EventStepContext](id="fit.claimed")


# silent: two events with one id
EVENT_SAVED = Event[EventStepContext](id="user.saved")
EVENT_SAVED_TOO = Event[EventReadyContext](id="user.saved")


# silent: `bounded` whose second event does not belong to the first
def bounds_a_wrong_pair(bus: EventBus) -> None:
    with bus.bounded(EVENT_FIT_STEP_POST, EVENT_FIT_STEP_PRE, EventStepContext(step=0)):
        pass


# silent: `bounded` without a `with`
def bounds_nothing(bus: EventBus) -> None:
    bus.bounded(EVENT_FIT_STEP_PRE, EVENT_FIT_STEP_POST, EventStepContext(step=0))


# silent: an emitter that is never called
def emits_nothing(bus: EventBus) -> None:
    bus.emitter(EVENT_FIT_STEP_PRE)


# silent: a deprecated event
class HearsADeprecatedEvent:
    @subscribe(fit.EVENT_FIT_STEP_BEGIN)
    def handle(self, ctx: EventStepContext) -> None: ...


# silent: a deprecated field
class ReadsADeprecatedField:
    @subscribe(EVENT_FIT_STEP_POST)
    def handle(self, ctx: EventStepContext) -> None:
        show(ctx.index)


# silent: an override without `@subscribe`, which is never called
class Tagged:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext) -> None: ...


class Dropped(Tagged):
    def handle(self, ctx: EventReadyContext) -> None: ...


# silent: `subscribe_annotated` with a class in place of an object
def registers_a_class(bus: EventBus) -> None:
    subscribe_annotated(bus, Tagged)


# right: methods that take their context, or a wider type
class Right:
    @subscribe(EVENT_FIT_STEP_POST)
    def handle(self, ctx: EventStepContext) -> None:
        show(ctx.step)

    @subscribe(EVENT_FIT_STEP_POST)
    def takes_anything(self, ctx: object) -> None: ...

    @subscribe(EVENT_FIT_STEP_POST)
    def takes_any(self, ctx: Any) -> None: ...

    @subscribe(EVENT_FIT_STEP_POST)
    def takes_a_protocol(self, ctx: HasStep) -> None: ...

    @subscribe(EVENT_FIT_STEP_POST)
    def takes_positional_only(self, ctx: EventStepContext, /) -> None: ...

    @subscribe(EVENT_FIT_STEP_POST)
    def takes_extras(self, ctx: EventStepContext, scale: float = 1.0, *, tag: str = "") -> None: ...

    @subscribe(EVENT_FIT_STEP_POST)
    def takes_all(self, *args: object, **kwargs: object) -> None: ...


# right: a method of two events with one context
class RightForTwo:
    @subscribe(EVENT_FIT_STEP_PRE)
    @subscribe(EVENT_FIT_STEP_POST)
    def handle(self, ctx: EventStepContext) -> None: ...


# right: a method of two events takes the contexts of both
#   refused by mypy, because the lower decorator returns a handler that accepts only its own context
#   refused by pyright, for the same reason
#   refused by ty, for the same reason
#   refused by pyrefly, for the same reason
class RightForEither:
    @subscribe(EVENT_FIT_STEP_POST)
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventStepContext | EventReadyContext) -> None: ...


# right: static and class methods
class RightWithoutObject:
    @staticmethod
    @subscribe(EVENT_FIT_READY)
    def static(ctx: EventReadyContext) -> None: ...

    @subscribe(EVENT_FIT_READY)
    @staticmethod
    def static_below(ctx: EventReadyContext) -> None: ...

    @classmethod
    @subscribe(EVENT_FIT_READY)
    def of_class(cls, ctx: EventReadyContext) -> None: ...


# right: functions that take their context, and other arguments with a default
@subscribe(EVENT_FIT_STEP_POST)
def right(ctx: EventStepContext) -> None: ...


@subscribe(EVENT_FIT_STEP_POST)
def right_with_extras(ctx: EventStepContext, scale: float = 1.0, *, tag: str = "") -> None: ...


# right: a function that is generic in its context
#   refused by pyrefly, which does not find the overload for functions
@subscribe(EVENT_FIT_STEP_POST)
def right_and_generic(ctx: TStep) -> None: ...


# right: an override with `@subscribe`, and the call of the overridden method
class RightBase:
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext) -> None: ...


class RightDerived(RightBase):
    @subscribe(EVENT_FIT_READY)
    def handle(self, ctx: EventReadyContext) -> None:
        super().handle(ctx)


# right: a tagged handler called as a normal method
def calls_a_tagged_handler(handlers: Right, ctx: EventStepContext) -> None:
    handlers.handle(ctx)
    right(ctx)


# right: `bus.subscribe` with functions, methods, lambdas, partials and objects
def subscribes_what_is_right(bus: EventBus, log: Log) -> None:
    bus.subscribe(EVENT_FIT_READY, on_ready)
    bus.subscribe(EVENT_FIT_STEP_POST, right)
    bus.subscribe(EVENT_FIT_READY, log.on_ready)
    bus.subscribe(EVENT_FIT_STEP_POST, Right().handle)
    bus.subscribe(EVENT_FIT_STEP_POST, lambda ctx: show(ctx.step))
    bus.subscribe(EVENT_FIT_STEP_POST, functools.partial(on_tagged_step, "a"))
    for event in (EVENT_FIT_STEP_PRE, EVENT_FIT_STEP_POST):
        bus.subscribe(event, on_step)


# right: handlers with filters, and subscriptions that end
class RightWithFilters:
    @subscribe(EVENT_MIXED, every=10, once=True, main_process_only=True, optional=True)
    def handle(self, ctx: EventStepContext) -> None: ...


def subscribes_for_a_while(bus: EventBus) -> None:
    subscription = bus.subscribe(EVENT_MIXED, on_step, every=10)
    subscription.unsubscribe()
    with bus.subscribe(EVENT_FIT_READY, lambda ctx: show(ctx.num_steps), once=True):
        pass


# right: `subscribe_annotated` with an object
def registers_an_object(bus: EventBus) -> None:
    subscribe_annotated(bus, Right())


# right: `trigger` and `bounded`
def triggers_what_is_right(bus: EventBus) -> None:
    bus.trigger(EVENT_FIT_READY, EventReadyContext(num_steps=1))
    bus.trigger(EVENT_DETAILED, LongStep("a"))
    with bus.bounded(EVENT_FIT_STEP_PRE, EVENT_FIT_STEP_POST, EventStepContext(step=0)):
        pass


# right: an emitter
def emits_what_is_right(bus: EventBus) -> None:
    step_pre = bus.emitter(EVENT_FIT_STEP_PRE)
    if step_pre.handlers:
        step_pre.call(EventStepContext(step=0))


# right: events without a catalogue
EVENT_OWN = Event[EventStepContext](id="user.own")
EVENT_OWN_DECLARED: Event[EventStepContext] = Event(id="user.own_declared")
