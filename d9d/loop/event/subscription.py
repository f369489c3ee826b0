"""The `@subscribe` decorator, and the function that subscribes all decorated handlers of an object."""

import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, final, overload

from d9d.loop.event.bus import Event, EventBus, describe_handler

TContext = TypeVar("TContext")
TSelf = TypeVar("TSelf")

_TAG = "__d9d_events__"


@final
class Subscription(Generic[TContext]):
    """The decorator that `subscribe` returns.

    It is an object whose call is overloaded, with the method form first, so that every type checker rejects a wrong
    context by the signature alone, and so that the mypy plugin can check more: mypy has a hook for the call of an
    object, but none for a function used as a decorator.
    """

    __slots__ = ("_event",)

    def __init__(self, event: Event[TContext]) -> None:
        self._event = event

    @overload
    def __call__(self, handler: Callable[[TSelf, TContext], None], /) -> Callable[[TSelf, TContext], None]: ...
    @overload
    def __call__(self, handler: Callable[[TContext], None], /) -> Callable[[TContext], None]: ...
    def __call__(self, handler: Any, /) -> Any:
        """Mark a method or a function as a handler of the event.

        Args:
            handler: A method, function, static method or class method.

        Returns:
            The same object.

        Raises:
            TypeError: If it is none of these.
            ValueError: If it is marked with this event already.
        """
        function = getattr(handler, "__func__", handler)
        if not inspect.isfunction(function):
            raise TypeError(f"@subscribe for event {self._event.id!r} decorates methods and functions, not {handler!r}")
        events = _events_of(function)
        if self._event in events:
            raise ValueError(
                f"{describe_handler(function)} is decorated twice with @subscribe for event {self._event.id!r}: remove "
                "one of the two"
            )
        # Decorators are applied from the bottom up, and the topmost one shall come first.
        setattr(function, _TAG, (self._event, *events))
        return handler


def subscribe(event: Event[TContext]) -> Subscription[TContext]:
    """Mark a method or a function as a handler of an event.

    This does not subscribe it yet: `subscribe_annotated` subscribes all marked methods of an object. A method may be
    marked with several events.

    Args:
        event: The event that the decorated function handles.

    Returns:
        The decorator.

    Raises:
        TypeError: If `event` is not an `Event`, for example because `@subscribe` was written without one.
    """
    if not isinstance(event, Event):
        raise TypeError(f"@subscribe needs an event, as in @subscribe(EVENT_TRAIN_READY), but found {event!r}")
    return Subscription(event)


def subscribe_annotated(bus: EventBus, target: object) -> None:
    """Subscribe all methods of an object that are decorated with `@subscribe`, in the order of their definition.

    Handlers of base classes come before those of derived classes; an override takes the position of the method that it
    overrides. Attributes are looked up on the classes, so no property of the object is evaluated.

    Args:
        bus: The bus to subscribe the handlers on.
        target: An instance; or a module, for its decorated functions; or a decorated function.

    Raises:
        TypeError: If the target is a class, or if its class overrides a handler without `@subscribe`.
        ValueError: If the target has been subscribed on this bus before.
    """
    if isinstance(target, type):
        raise TypeError(
            f"subscribe_annotated needs an instance, but found the class {target.__qualname__}: pass "
            f"{target.__qualname__}(...) or self"
        )
    subscriptions = list(_subscriptions(target))
    bus.claim(target)
    for event, handler in subscriptions:
        bus.subscribe(event, handler)


def _subscriptions(target: object) -> Iterator[tuple[Event[Any], Callable[[Any], None]]]:
    """Yield each decorated handler of the target, bound, once for each of its events."""
    if inspect.isfunction(target):
        yield from ((event, target) for event in _events_of(target))
        return
    if isinstance(target, types.ModuleType):
        own = (value for value in vars(target).values() if getattr(value, "__module__", None) == target.__name__)
        for function in filter(inspect.isfunction, own):
            yield from ((event, function) for event in _events_of(function))
        return
    # By identity, because an alias in a class body is the same handler under another name.
    attributes = {id(attribute): attribute for attribute in _class_attributes(type(target)).values()}
    for attribute in attributes.values():
        for event in _events_of(attribute):
            yield event, attribute.__get__(target, type(target))
    for function in filter(inspect.isfunction, getattr(target, "__dict__", {}).values()):
        yield from ((event, function) for event in _events_of(function))


def _class_attributes(kind: type) -> dict[str, Any]:
    """Return the attributes of a class and its bases in the order of definition; an override keeps the first place."""
    _verify_overrides(kind)
    return {name: attribute for base in reversed(kind.__mro__) for name, attribute in vars(base).items()}


def _verify_overrides(kind: type) -> None:
    """Refuse a class in which an attribute without `@subscribe` overrides or hides a handler."""
    nearest: dict[str, type] = {}
    for base in kind.__mro__:
        for name, attribute in vars(base).items():
            hider = nearest.setdefault(name, base)
            if _events_of(attribute) and not _events_of(vars(hider)[name]):
                raise TypeError(_dropped(kind, name, hider, base))


def _dropped(kind: type, name: str, hider: type, owner: type) -> str:
    """Describe an attribute that overrides or hides a handler, and what to do about it."""
    override, handler = (f"{each.__module__}.{each.__qualname__}.{name}" for each in (hider, owner))
    found = f"{handler}, a handler of {', '.join(repr(event.id) for event in _events_of(vars(owner)[name]))}"
    if issubclass(hider, owner):
        return (
            f"{override} overrides {found}, but has no @subscribe, so it would never be called. Decorate the override "
            "too, or give it another name."
        )
    return (
        f"in {kind.__module__}.{kind.__qualname__}, {override} hides {found}, but has no @subscribe, so neither would "
        "be called. Override it with @subscribe, or give one of the two another name."
    )


def _events_of(attribute: object) -> tuple[Event[Any], ...]:
    """Return the events that a function, or the function in a static or class method, is decorated with."""
    function = attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute
    return function.__dict__.get(_TAG, ()) if inspect.isfunction(function) else ()
