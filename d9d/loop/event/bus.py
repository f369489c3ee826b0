"""The Event Bus: events, handlers, and the bus that connects them."""

import collections
import contextlib
import dataclasses
import inspect
import os
import types
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ForwardRef, Generic, Self, TypeAlias, TypeVar, final

from d9d.loop.event.handler import describe_handler, place_of, verify_handler

# Declared, not inferred: the `class Event[TContext]` syntax of Python 3.12 infers a covariant parameter, and type
# checkers then accept wrong contexts. See docs/decisions/0002-invariant-context.md.
TContext = TypeVar("TContext")


# A subscription replaces the tuple, so a handler that subscribes during a trigger is first called by the next one. An
# event that is triggered without handlers gets an empty tuple for good, so that later triggers find a key.
_Handlers: TypeAlias = collections.defaultdict[str, tuple[Callable[[Any], None], ...]]

_FILTERED: Final = "__d9d_filtered__"
"""The attribute of a function that filters the calls of a handler, which holds the handler."""


class _EventOf(types.GenericAlias):
    """The class `Event` with the type of its context."""

    def __call__(self, *, context_name: str | None = None, **fields: Any) -> "Event[Any]":
        """Make an event that knows the name of its context."""
        return Event(context_name=context_name or _name_of(self.__args__[0]), **fields)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Event(Generic[TContext]):
    """A moment in the life of a loop, and the type of the context that its handlers receive.

    Events are equal if their ids are, so an event may be copied, pickled, or defined again by a notebook cell that is
    run twice. A bus refuses two events with one id and different contexts.

    Attributes:
        id: The unique name of the event: lower-case segments joined by dots, such as `train.step.pre`.
        context_name: The full name of the context's class. `Event[Context](id=...)` records it; `None` if it is not
            known.
        in_step: Whether the event lies in a step of a loop: its context has a `stepper`, which counts this step as the
            current one. Only handlers of such events can be subscribed with `every`.
    """

    id: str
    context_name: str | None = dataclasses.field(default=None, repr=False, compare=False)
    in_step: bool = dataclasses.field(default=False, repr=False, compare=False)

    if not TYPE_CHECKING:

        def __class_getitem__(cls, context: Any) -> types.GenericAlias:
            """Return `Event[Context]`, whose call records the name of the context."""
            return _EventOf(cls, super().__class_getitem__(context).__args__)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """When a handler is called, declared where it is subscribed.

    Attributes:
        every: Call it only in the steps in which `stepper.is_due(every)` is true.
        once: Call it once, and then unsubscribe it.
        main_process_only: Call it in the main process of the job alone.
    """

    every: int | None = None
    once: bool = False
    main_process_only: bool = False

    def __str__(self) -> str:
        """Return the filter as it is written in a call of `subscribe`; empty if it lets everything through."""
        given = [f"every={self.every}"] if self.every is not None else []
        given += [f"{name}=True" for name in ("once", "main_process_only") if getattr(self, name)]
        return ", ".join(given)

    def verify(self, event: Event[Any]) -> None:
        """Refuse a filter that does not suit an event.

        Args:
            event: The event that the handler listens to.

        Raises:
            TypeError: If `every` is no integer.
            ValueError: If `every` is less than 1, or the event does not lie in a step.
        """
        if self.every is None:
            return
        if type(self.every) is not int:  # a boolean is an instance of it
            raise TypeError(
                f"every is a number of steps, but is {self.every!r} for event {event.id!r}: pass an integer, such as "
                "every=10"
            )
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, but is {self.every} for event {event.id!r}")
        if not event.in_step:
            raise ValueError(
                f"every={self.every} counts steps, but event {event.id!r} does not lie in a step: leave out `every`, "
                "or choose an event between step.pre and step.post. An event of your own lies in a step if it is "
                "created with in_step=True and its context has a stepper"
            )


@final
class Subscription:
    """A handler on a bus, as `EventBus.subscribe` returns it. As a context manager it unsubscribes at the end.

    Attributes:
        event: The event.
        handler: The handler, as it was subscribed.
        filter: When the handler is called.
        call: What the bus calls: the handler, behind its filter if it has one.
    """

    __slots__ = ("_bus", "_has_run", "call", "event", "filter", "handler")

    def __init__(self, bus: "EventBus", event: Event[Any], handler: Callable[[Any], None], declared: Filter) -> None:
        self._bus = bus
        self._has_run = False
        self.event = event
        self.handler = handler
        self.filter = declared
        self.call = self._filtered()

    @property
    def is_active(self) -> bool:
        """Whether the handler is still subscribed."""
        return self._bus.is_subscribed(self)

    def unsubscribe(self) -> None:
        """Do not call the handler again, from the next trigger on. Does nothing if it is unsubscribed already."""
        self._bus.unsubscribe(self)

    def __enter__(self) -> Self:
        """Return the subscription."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unsubscribe the handler."""
        self.unsubscribe()

    def _filtered(self) -> Callable[[Any], None]:
        """Return the handler behind its filter. Closures, because calling an object with `__call__` takes longer."""
        handler, every = self.handler, self.filter.every
        called = self._call_once if self.filter.once else handler
        if called is handler and every is None:
            return handler

        def call(context: Any) -> None:
            called(context)

        def call_if_due(context: Any) -> None:
            # `Stepper.is_due` written out: not due is the common case, and its calls would take most of the time.
            step = (stepper := context.stepper)._current_step + 1  # noqa: SLF001 -- properties are calls too
            if step % every and step != stepper._total_steps:  # noqa: SLF001 -- the same
                return
            called(context)

        filtered = call if every is None else call_if_due
        setattr(filtered, _FILTERED, handler)
        return filtered

    def _call_once(self, context: Any) -> None:
        if self._has_run:  # by a trigger inside the trigger that called this
            return
        self._has_run = True
        self.unsubscribe()
        self.handler(context)


@final
class Emitter(Generic[TContext]):
    """Triggers one event of one bus. A loop keeps it, so that an event costs no more than the calls of its handlers.

    ```python
    loss_ready = bus.emitter(EVENT_LOSS_READY)
    while not stepper.is_finished:
        ...
        if loss_ready.handlers:  # an event that nobody listens to builds no context
            loss_ready.call(LossReadyContext(loss=loss))
    ```

    Attributes:
        handlers: The handlers of the event in the order of subscription. A subscription replaces the tuple, so a
            handler that subscribes during a trigger is first called by the next one.
    """

    __slots__ = ("_event_id", "handlers")

    def __init__(self, event_id: str, handlers: tuple[Callable[[TContext], None], ...]) -> None:
        self._event_id = event_id
        self.handlers = handlers

    def call(self, context: TContext, /) -> None:
        """Call all handlers, as `EventBus.trigger` does.

        Args:
            context: What the handlers receive.

        Raises:
            BaseException: Whatever a handler raises, with a note that names the event and the handler. The handlers
                after it are not called.
        """
        try:
            for handler in self.handlers:
                handler(context)
        except BaseException as error:
            error.add_note(note(self._event_id, handler))
            raise


@final
class Bounded(Generic[TContext]):
    """The context manager that `EventBus.bounded` returns.

    `EventBus.bounded` sets the attributes directly, because a call of `__init__` would add a tenth to its time.

    Attributes:
        handlers: The handlers of the bus, by event id.
        event_pre: The event to trigger on entry.
        event_post: The event to trigger on exit, unless the block raised.
        context: The context that the handlers of both events receive.
    """

    __slots__ = ("context", "event_post", "event_pre", "handlers")

    handlers: "_Handlers"
    event_pre: Event[TContext]
    event_post: Event[TContext]
    context: TContext

    # Both check for handlers before they make a call, because most events have none.
    def __enter__(self) -> None:
        if handlers := self.handlers[self.event_pre.id]:
            _call(handlers, self.event_pre.id, self.context)

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error_type is None and (handlers := self.handlers[self.event_post.id]):
            _call(handlers, self.event_post.id, self.context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One call of `subscribe_annotated`.

    Attributes:
        target: The object whose handlers it subscribes.
        has_handlers: Whether the object has any.
        file: Where the call is.
        line: The line of the call, counted from 1.
    """

    target: object
    has_handlers: bool
    file: str
    line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandlerDescription:
    """One handler on a bus.

    Attributes:
        event_id: The id of the event that it listens to.
        position: Its place among the handlers of the event, from 1.
        handler: Its module and qualified name.
        file: Where it is defined; `None` for what is not written in Python.
        line: The line where its definition begins, counted from 1.
        filter: When it is called.
    """

    event_id: str
    position: int
    handler: str
    file: str | None
    line: int | None
    filter: Filter


Watch: TypeAlias = Callable[[Subscription], contextlib.AbstractContextManager[None]]
"""Makes a context for a call of a handler."""


class BusDescription(tuple[HandlerDescription, ...]):
    """The handlers on a bus, as `EventBus.describe` returns them. `str()` makes a table of it."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return a table with one line for each handler."""
        if not self:
            return "no handlers"
        rows = [("event", "#", "handler", "defined in", "filter")]
        for each in self:
            place = "" if each.file is None else f"{each.file}:{each.line}"
            rows.append((each.event_id, str(each.position), each.handler, place, str(each.filter)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


class EventBus:
    """Calls the handlers that subscribed to an event when it is triggered.

    Dispatch is synchronous and in the order of subscription. The first exception of a handler ends the dispatch and
    propagates, with a note that names the event and the handler.

    Args:
        is_main_process: Whether handlers with `main_process_only` are called in this process. By default they are
            where the environment variable `RANK`, which `torchrun` sets, is 0 or not set.
    """

    __slots__ = (
        "_claims",
        "_context_names",
        "_emitters",
        "_guards",
        "_handlers",
        "_is_main_process",
        "_subscriptions",
        "_take_repeated_claim",
        "_watch",
    )

    def __init__(self, *, is_main_process: bool | None = None) -> None:
        self._is_main_process = os.environ.get("RANK", "0") == "0" if is_main_process is None else is_main_process
        self._handlers: _Handlers = collections.defaultdict(tuple)
        # The same handlers, and those that this process does not call, as they were subscribed.
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._emitters: dict[str, Emitter[Any]] = {}
        self._context_names: dict[str, str] = {}
        self._guards: list[Callable[[Event[Any], Callable[[Any], None]], None]] = []
        # By identity, because targets need not be hashable. The values keep the targets alive and their ids unique.
        self._claims: dict[int, Claim] = {}
        self._take_repeated_claim: Callable[[Claim, Claim], None] | None = None
        self._watch: Watch | None = None

    def subscribe(
        self,
        event: Event[TContext],
        handler: Callable[[TContext], None],
        *,
        every: int | None = None,
        once: bool = False,
        main_process_only: bool = False,
    ) -> Subscription:
        """Call a handler whenever an event is triggered, after the handlers that subscribed before it.

        A handler that subscribes while the event is being triggered is first called by the next trigger.

        Args:
            event: The event to listen to.
            handler: A callable whose only argument is the context of the event.
            every: Call it only in the steps in which `stepper.is_due(every)` is true: in each step that completes this
                many, and in the last one. For events that lie in a step.
            once: Call it once in this process, and then unsubscribe it; with `every`, in the first step that is due.
            main_process_only: Call it in the main process of the job alone.

        Returns:
            The subscription, which can be ended.

        Raises:
            TypeError: If `event` is not an `Event`, `every` is no integer, or the handler is a coroutine function, a
                generator function, or cannot be called with one argument.
            ValueError: If this bus knows an event with the same id and another context, `every` is less than 1, or
                the event does not lie in a step.
        """
        declared = Filter(every=every, once=once, main_process_only=main_process_only)
        _verify_event(event)
        verify_handler(event.id, handler)
        declared.verify(event)
        self._verify_only(event, f"handler {describe_handler(handler)} listens to")
        for check in self._guards:
            check(event, handler)
        subscription = Subscription(self, event, handler, declared)
        self._subscriptions.setdefault(event.id, []).append(subscription)
        if self._is_called(subscription):
            self._set_handlers(event.id, (*self._handlers[event.id], self._call_of(subscription)))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Do not call a handler again, from the next trigger on, as `Subscription.unsubscribe` does.

        Args:
            subscription: What `subscribe` of this bus returned. Nothing happens if it is unsubscribed already.
        """
        event_id = subscription.event.id
        remaining = [each for each in self._subscriptions.get(event_id, ()) if each is not subscription]
        self._subscriptions[event_id] = remaining
        self._set_handlers(event_id, tuple(self._call_of(each) for each in remaining if self._is_called(each)))

    def is_subscribed(self, subscription: Subscription) -> bool:
        """Return whether a handler is still subscribed on this bus."""
        return subscription in self._subscriptions.get(subscription.event.id, ())

    def add_guard(self, check: Callable[[Event[Any], Callable[[Any], None]], None]) -> None:
        """Have later subscriptions checked. A loop does so to refuse handlers of moments that have passed.

        Args:
            check: Called with the event and the handler before each subscription; it raises to refuse it.
        """
        self._guards.append(check)

    def watch(self, watch: "Watch | None") -> None:
        """Enter a context around each call of a handler from the next trigger on. A loop does so to find a culprit.

        Args:
            watch: Returns the context for a subscription; `None` ends the watch.
        """
        self._watch = watch
        for event_id, subscriptions in self._subscriptions.items():
            self._set_handlers(event_id, tuple(self._call_of(each) for each in subscriptions if self._is_called(each)))

    def describe(self) -> BusDescription:
        """Describe who listens to what.

        Returns:
            The handlers on this bus, by event in the order of their first subscription, and for each event in the order
            in which they are called. Print it as a table.
        """
        positions: collections.Counter[str] = collections.Counter()
        described = []
        for each in self.subscriptions:
            positions[each.event.id] += 1
            file, line = place_of(each.handler)
            described.append(
                HandlerDescription(
                    event_id=each.event.id,
                    position=positions[each.event.id],
                    handler=describe_handler(each.handler),
                    file=file,
                    line=line,
                    filter=each.filter,
                )
            )
        return BusDescription(described)

    def trigger(self, event: Event[TContext], context: TContext) -> None:
        """Call all handlers of an event, in the order in which they subscribed.

        Args:
            event: The event.
            context: The context that the handlers receive.

        Raises:
            BaseException: Whatever a handler raises, with a note that names the event and the handler. The handlers
                after it are not called.
        """
        # `Emitter.call` written out: the call itself would take as long as a handler that does nothing.
        try:
            for handler in self._handlers[event.id]:
                handler(context)
        except BaseException as error:
            error.add_note(note(event.id, handler))
            raise

    def bounded(self, event_pre: Event[TContext], event_post: Event[TContext], context: TContext) -> Bounded[TContext]:
        """Trigger one event on entry to a `with` block and another on exit.

        Args:
            event_pre: The event to trigger on entry.
            event_post: The event to trigger on exit; not triggered if the block raises.
            context: The context that the handlers of both events receive.

        Returns:
            The context manager to use in the `with` statement.
        """
        block: Bounded[TContext] = Bounded()
        block.handlers = self._handlers
        block.event_pre = event_pre
        block.event_post = event_post
        block.context = context
        return block

    def emitter(self, event: Event[TContext]) -> Emitter[TContext]:
        """Return the object that triggers one event, for loops that trigger it again and again.

        Args:
            event: The event.

        Returns:
            The emitter, the same one for each call. Handlers that subscribe later are called as well.

        Raises:
            TypeError: If `event` is not an `Event`.
            ValueError: If this bus knows an event with the same id and another context.
        """
        _verify_event(event)
        self._verify_only(event, "an emitter is asked for")
        if event.id not in self._emitters:
            self._emitters[event.id] = Emitter(event.id, self._handlers[event.id])
        return self._emitters[event.id]

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions, by event; those of one event in the order in which their handlers are called."""
        return [each for subscriptions in self._subscriptions.values() for each in subscriptions]

    @property
    def subscribers(self) -> list[object]:
        """The objects whose methods are handlers on this bus, each once."""
        owners = (getattr(each.handler, "__self__", None) for each in self.subscriptions)
        return [*{id(owner): owner for owner in owners if owner is not None}.values()]

    @property
    def claims(self) -> list[Claim]:
        """The calls of `subscribe_annotated`, in their order."""
        return [*self._claims.values()]

    def claim(self, claim: Claim) -> bool:
        """Record that `subscribe_annotated` is subscribing the handlers of an object, which it may do once.

        Args:
            claim: The object, and where the call is.

        Returns:
            Whether to subscribe them. Not if they are subscribed already, and a loop lists this with other faults.

        Raises:
            ValueError: If its handlers have been subscribed on this bus before.
        """
        first = self._claims.setdefault(id(claim.target), claim)
        if first is claim:
            return True
        if self._take_repeated_claim is None:
            raise ValueError(
                f"the handlers of {type(claim.target).__qualname__} object {claim.target!r} are already subscribed on "
                "this bus and would run twice per event. Call subscribe_annotated once per object: it includes "
                "inherited handlers."
            )
        self._take_repeated_claim(first, claim)
        return False

    def collect_repeated_claims(self, take: Callable[[Claim, Claim], None] | None) -> None:
        """Say what becomes of a second call of `subscribe_annotated` with one object.

        A loop that is being configured lists them with all other faults of its handlers.

        Args:
            take: Called with the first claim and the repeated one; `None` raises an error, as without this call.
        """
        self._take_repeated_claim = take

    def _call_of(self, subscription: Subscription) -> Callable[[Any], None]:
        """Return what the bus calls for a subscription."""
        watch = self._watch
        if watch is None:
            return subscription.call

        def call(context: Any) -> None:
            with watch(subscription):
                subscription.call(context)

        setattr(call, _FILTERED, subscription.handler)
        return call

    def _is_called(self, subscription: Subscription) -> bool:
        return self._is_main_process or not subscription.filter.main_process_only

    def _set_handlers(self, event_id: str, handlers: tuple[Callable[[Any], None], ...]) -> None:
        self._handlers[event_id] = handlers
        if event_id in self._emitters:
            self._emitters[event_id].handlers = handlers

    def _verify_only(self, event: Event[Any], who: str) -> None:
        if event.context_name is None:
            return
        known = self._context_names.setdefault(event.id, event.context_name)
        if known != event.context_name:
            raise ValueError(
                f"{who} an event with the id {event.id!r} and the context {event.context_name}, but on this bus the "
                f"context of that id is {known}: define the event once and import it everywhere else, or give one of "
                "the two another id"
            )


def _name_of(context: object) -> str | None:
    """Return the full name of a context's type; `None` if it is `Any`, or has a type variable or only a text in it."""
    if context is Any or isinstance(context, TypeVar | ForwardRef) or bool(getattr(context, "__parameters__", None)):
        return None
    return f"{context.__module__}.{context.__qualname__}" if isinstance(context, type) else str(context)


def _verify_event(event: object) -> None:
    """Refuse anything but an event: a handler of it would never be called."""
    if not isinstance(event, Event):
        raise TypeError(f"expected an Event, such as an EVENT_… constant of a catalogue, but found {event!r}")


def _call(handlers: tuple[Callable[[Any], None], ...], event_id: str, context: object) -> None:
    """Call handlers as `EventBus.trigger` does."""
    try:
        for handler in handlers:
            handler(context)
    except BaseException as error:
        error.add_note(note(event_id, handler))
        raise


def note(event_id: str, handler: object) -> str:
    """Describe where an exception was raised, for `add_note`."""
    if inspect.isfunction(handler):
        handler = handler.__dict__.get(_FILTERED, handler)
    return f"while event {event_id!r} was handled by {describe_handler(handler)}"
