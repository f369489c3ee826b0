"""The Event Bus: events, handlers, and the bus that connects them."""

import collections
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar, final

# Declared, not inferred: the `class Event[TContext]` syntax of Python 3.12 infers a covariant parameter, and type
# checkers then accept wrong contexts. See docs/decisions/0002-invariant-context.md.
TContext = TypeVar("TContext")


# A subscription replaces the tuple, so a handler that subscribes during a trigger is first called by the next one. An
# event that is triggered without handlers gets an empty tuple for good, so that later triggers find a key.
_Handlers: TypeAlias = collections.defaultdict[str, tuple[Callable[[Any], None], ...]]


@final
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Event(Generic[TContext]):
    """A moment in the life of a loop, and the type of the context that its handlers receive.

    Define an event once, as a module-level constant. Events are compared by identity, and a bus refuses a second event
    with the id of another.

    Attributes:
        id: The unique name of the event: lower-case segments joined by dots, such as `train.step.pre`.
    """

    # Not slots=True: that makes a second class, which Python 3.11 does not take as `Event[Context](id=...)`.
    __slots__ = ("id",)

    id: str

    def __copy__(self) -> Self:
        """Return the event itself: a copy would be another event."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the event itself: a copy would be another event."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the unpickled object would be a second event with the same id."""
        raise TypeError(
            f"event {self.id!r} cannot be pickled, because events are compared by identity: import it instead"
        )


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


@final
class EventBus:
    """Calls the handlers that subscribed to an event when it is triggered.

    Dispatch is synchronous and in the order of subscription. The first exception of a handler ends the dispatch and
    propagates, with a note that names the event and the handler.
    """

    __slots__ = ("_claimed", "_emitters", "_events", "_handlers")

    def __init__(self) -> None:
        """Make a bus without handlers."""
        self._handlers: _Handlers = collections.defaultdict(tuple)
        self._emitters: dict[str, Emitter[Any]] = {}
        self._events: dict[str, Event[Any]] = {}
        # By identity, because targets need not be hashable. The values keep the targets alive and their ids unique.
        self._claimed: dict[int, object] = {}

    def subscribe(self, event: Event[TContext], handler: Callable[[TContext], None]) -> None:
        """Call a handler whenever an event is triggered, after the handlers that subscribed before it.

        A handler that subscribes while the event is being triggered is first called by the next trigger.

        Args:
            event: The event to listen to.
            handler: A callable whose only argument is the context of the event.

        Raises:
            TypeError: If `event` is not an `Event`, or the handler is a coroutine function, a generator function, or
                cannot be called with one argument.
            ValueError: If this bus knows another `Event` object with the same id.
        """
        _verify_event(event)
        verify_handler(event.id, handler)
        self._verify_only(event, f"handler {describe_handler(handler)} listens to")
        self._handlers[event.id] += (handler,)
        if event.id in self._emitters:
            self._emitters[event.id].handlers = self._handlers[event.id]

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
            ValueError: If this bus knows another `Event` object with the same id.
        """
        _verify_event(event)
        self._verify_only(event, "an emitter is asked for")
        if event.id not in self._emitters:
            self._emitters[event.id] = Emitter(event.id, self._handlers[event.id])
        return self._emitters[event.id]

    @property
    def subscribers(self) -> list[object]:
        """The objects whose methods are handlers on this bus, each once."""
        handlers = (handler for handlers in self._handlers.values() for handler in handlers)
        owners = (getattr(handler, "__self__", None) for handler in handlers)
        return [*{id(owner): owner for owner in owners if owner is not None}.values()]

    def claim(self, target: object) -> None:
        """Record that `subscribe_annotated` is subscribing the handlers of an object, which it may do once.

        Args:
            target: The object.

        Raises:
            ValueError: If its handlers have been subscribed on this bus before.
        """
        if id(target) in self._claimed:
            raise ValueError(
                f"the handlers of {type(target).__qualname__} object {target!r} are already subscribed on this bus and "
                "would run twice per event. Call subscribe_annotated once per object: it includes inherited handlers."
            )
        self._claimed[id(target)] = target

    def _verify_only(self, event: Event[Any], who: str) -> None:
        if self._events.setdefault(event.id, event) is not event:
            raise ValueError(
                f"{who} a second Event object with the id {event.id!r}; the two may have different contexts. Define "
                "the event once and import it everywhere else."
            )


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


def describe_handler(handler: object) -> str:
    """Name a handler by the place of its definition.

    Args:
        handler: Any callable.

    Returns:
        Its module and qualified name.
    """
    if isinstance(handler, functools.partial):
        return f"partial of {describe_handler(handler.func)}"
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def note(event_id: str, handler: object) -> str:
    """Describe where an exception was raised, for `add_note`."""
    return f"while event {event_id!r} was handled by {describe_handler(handler)}"


def verify_handler(event_id: str, handler: Callable[[Any], None]) -> None:
    """Refuse a handler whose body would never run when the event is triggered.

    Args:
        event_id: The id of the event.
        handler: The handler.

    Raises:
        TypeError: If it is not callable with one argument, or is a coroutine function or a generator function.
    """
    named = f"handler {describe_handler(handler)} of event {event_id!r}"
    if not callable(handler):
        raise TypeError(f"{named} is not callable: pass a function or a bound method that takes the context")
    body = _body(handler)
    if inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(f"{named} is asynchronous, and the bus does not await it: define it with `def`")
    if inspect.isgeneratorfunction(body):
        raise TypeError(f"{named} is a generator, and the bus does not iterate it: remove the `yield`")
    try:
        signature = signature_of(handler)
    except ValueError:  # some built-in callables have none
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"{named} must accept one argument, the context, but its signature is {signature}: {error}"
        ) from None


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a callable without evaluating its annotations.

    Args:
        function: Any callable.

    Returns:
        The signature.

    Raises:
        ValueError: If it is a built-in without a signature.
    """
    if sys.version_info >= (3, 14):
        # Evaluating an annotation fails if its name is imported only under TYPE_CHECKING.
        import annotationlib  # noqa: PLC0415 -- new in Python 3.14

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _body(handler: Callable[..., None]) -> Callable[..., None]:
    """Return the function that runs when the handler is called, if it can be found."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else type(handler).__call__
