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

    Events are defined once, as module-level constants, and compared by identity: two events that share an id are two
    definitions of one moment, and a bus refuses to listen to both.

    Attributes:
        id: The unique name of the moment: lower-case segments joined by dots, such as `train.step.pre`.
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
        """Refuse to be pickled: what is unpickled would be another event of the same id."""
        raise TypeError(
            f"event {self.id!r} cannot be pickled, since events are compared by identity: import it instead"
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
    """The `with` block between the two sides of a moment.

    `EventBus.bounded` makes it and fills its attributes in: a call of `__init__` would take a tenth of the whole.

    Attributes:
        handlers: Those of the bus, by the ids of their events.
        event_pre: The event of the block's beginning.
        event_post: The event of the block's successful end.
        context: What the handlers of both receive.
    """

    __slots__ = ("context", "event_post", "event_pre", "handlers")

    handlers: "_Handlers"
    event_pre: Event[TContext]
    event_post: Event[TContext]
    context: TContext

    # Both look before they call: mostly nobody listens.
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
    """Carries each triggered event to the handlers that subscribed to it.

    Dispatch is synchronous and in the order of subscription. It fails fast: the first exception of a handler ends the
    dispatch and propagates, with a note that names the event and the handler.
    """

    __slots__ = ("_claimed", "_emitters", "_events", "_handlers")

    def __init__(self) -> None:
        """Construct a bus that nobody listens to yet."""
        self._handlers: _Handlers = collections.defaultdict(tuple)
        self._emitters: dict[str, Emitter[Any]] = {}
        self._events: dict[str, Event[Any]] = {}
        # By identity, since targets need not be hashable; the values keep the targets alive and so their ids unique.
        self._claimed: dict[int, object] = {}

    def subscribe(self, event: Event[TContext], handler: Callable[[TContext], None]) -> None:
        """Call a handler whenever an event is triggered, after the handlers that subscribed before it.

        A handler that subscribes while the event is triggered is called from the next time on.

        Args:
            event: The event to listen to.
            handler: What to call, with the context of the event as its only argument.

        Raises:
            TypeError: If the event is no `Event`, or the handler could never run with a single argument.
            ValueError: If another `Event` object of the same id has been subscribed to on this bus.
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
            event: The event that happens.
            context: What its handlers receive.

        Raises:
            BaseException: Whatever a handler raises, unchanged but for a note that names the event and the handler. The
                handlers after it are not called.
        """
        handlers = self._handlers[event.id]
        # `Emitter.call` written out: the call itself would take as long as a handler that does nothing.
        try:
            for handler in handlers:
                handler(context)
        except BaseException as error:
            error.add_note(note(event.id, handler))
            raise

    def bounded(self, event_pre: Event[TContext], event_post: Event[TContext], context: TContext) -> Bounded[TContext]:
        """Trigger one event when a `with` block begins and another when it has ended without an exception.

        Args:
            event_pre: The event of the block's beginning.
            event_post: The event of the block's successful end; an exception in the block skips it.
            context: What the handlers of both receive.

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
            ValueError: If another `Event` object of the same id has been subscribed to on this bus.
        """
        _verify_event(event)
        self._verify_only(event, "an emitter is asked for")
        if event.id not in self._emitters:
            self._emitters[event.id] = Emitter(event.id, self._handlers[event.id])
        return self._emitters[event.id]

    @property
    def subscribers(self) -> list[object]:
        """The objects whose methods are handlers, each once, by events and in order of subscription."""
        handlers = (handler for handlers in self._handlers.values() for handler in handlers)
        owners = (getattr(handler, "__self__", None) for handler in handlers)
        return [*{id(owner): owner for owner in owners if owner is not None}.values()]

    def claim(self, target: object) -> None:
        """Note that all annotated handlers of an object are about to be subscribed, which may happen once.

        Args:
            target: The object whose handlers `subscribe_annotated` has collected.

        Raises:
            ValueError: If they have been subscribed on this bus before, and would run twice an event.
        """
        if id(target) in self._claimed:
            raise ValueError(
                f"the handlers of {type(target).__qualname__} object {target!r} are subscribed on this bus already and "
                "would run twice. Call subscribe_annotated once an object: it collects inherited handlers as well."
            )
        self._claimed[id(target)] = target

    def _verify_only(self, event: Event[Any], who: str) -> None:
        if self._events.setdefault(event.id, event) is not event:
            raise ValueError(
                f"{who} a second Event object with the id {event.id!r}: one moment, defined twice, perhaps with two "
                "contexts. Define the event once and import it from there."
            )


def _verify_event(event: object) -> None:
    """Refuse what is no event before it becomes a dead subscription."""
    if not isinstance(event, Event):
        raise TypeError(f"expected an Event, such as an EVENT_… constant of a catalogue, and found {event!r}")


def _call(handlers: tuple[Callable[[Any], None], ...], event_id: str, context: object) -> None:
    """Do what `EventBus.trigger` does, with handlers that have been looked up."""
    try:
        for handler in handlers:
            handler(context)
    except BaseException as error:
        error.add_note(note(event_id, handler))
        raise


def describe_handler(handler: object) -> str:
    """Name a handler as its author would look for it.

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
    """Say where an exception of a handler has come from."""
    return f"while event {event_id!r} was handled by {describe_handler(handler)}"


def verify_handler(event_id: str, handler: Callable[[Any], None]) -> None:
    """Refuse a handler that could never run, or whose body never would, when an event is triggered.

    Args:
        event_id: The id of the event.
        handler: What is to hear it.

    Raises:
        TypeError: If it is such a one.
    """
    named = f"handler {describe_handler(handler)} of event {event_id!r}"
    if not callable(handler):
        raise TypeError(f"{named} is not callable: pass a function or a bound method that takes the context")
    body = _body(handler)
    if inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(f"{named} is asynchronous, and the bus awaits nothing: define it with `def`, not `async def`")
    if inspect.isgeneratorfunction(body):
        raise TypeError(f"{named} is a generator, and the bus does not iterate it: remove the `yield`")
    try:
        signature = signature_of(handler)
    except ValueError:  # some built-in callables do not tell theirs
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"{named} must accept exactly one argument, the context, and its signature is {signature}: {error}"
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
        # Annotations are evaluated when they are asked for, and may name what only type checkers import.
        import annotationlib  # noqa: PLC0415 -- new in Python 3.14

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _body(handler: Callable[..., None]) -> Callable[..., None]:
    """Return the function that runs when the handler is called, as far as that can be seen."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else type(handler).__call__
