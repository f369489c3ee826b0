"""Handlers declared where they are defined, and subscribed all at once. Standard library only."""

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
    """What `subscribe` returns: an object that tags the handler it decorates.

    It is an object, and its call is overloaded with the method form first, so that every type checker refuses a wrong
    context from the signature alone and a plugin can look closer: mypy has a hook for the call of an object and none
    for a decorator that is a function.
    """

    __slots__ = ("_event",)

    def __init__(self, event: Event[TContext]) -> None:
        self._event = event

    @overload
    def __call__(self, handler: Callable[[TSelf, TContext], None], /) -> Callable[[TSelf, TContext], None]: ...
    @overload
    def __call__(self, handler: Callable[[TContext], None], /) -> Callable[[TContext], None]: ...
    def __call__(self, handler: Any, /) -> Any:
        """Tag a method or a function as a handler of the event.

        Args:
            handler: The method, function, static method or class method.

        Returns:
            The very same object.

        Raises:
            TypeError: If it is nothing that can be called with a context.
            ValueError: If it is tagged with this event already.
        """
        function = getattr(handler, "__func__", handler)
        if not inspect.isfunction(function):
            raise TypeError(f"@subscribe for event {self._event.id!r} decorates methods and functions, not {handler!r}")
        events = _events_of(function)
        if self._event in events:
            raise ValueError(f"{describe_handler(function)} is tagged twice with event {self._event.id!r}: remove one")
        # Decorators apply from the bottom up; the topmost comes first.
        setattr(function, _TAG, (self._event, *events))
        return handler


def subscribe(event: Event[TContext]) -> Subscription[TContext]:
    """Tag a method or a function as a handler of an event.

    Nothing is registered yet: `subscribe_annotated` does that for all tagged methods of an object. Several tags on one
    method all count.

    Args:
        event: The event that the decorated function handles.

    Returns:
        The decorator.

    Raises:
        TypeError: If the event is no `Event`; `@subscribe` without an event is the usual reason.
    """
    if not isinstance(event, Event):
        raise TypeError(
            f"@subscribe takes the event to listen to, as in @subscribe(EVENT_TRAIN_READY); found {event!r}"
        )
    return Subscription(event)


def subscribe_annotated(bus: EventBus, target: object) -> None:
    """Subscribe everything on an object that is tagged with `@subscribe`, in the order of definition.

    Handlers of base classes come before those of derived ones; an override takes the place of what it overrides.
    Attributes are looked up on the classes, so no property of the object runs.

    Args:
        bus: The bus to register the handlers on.
        target: The instance whose tagged methods shall be called; or a module or a function, whose own tagged
            functions are.

    Raises:
        TypeError: If the target is a class, or its class has an untagged method in the place of a tagged one.
        ValueError: If the target has been registered on this bus before.
    """
    if isinstance(target, type):
        raise TypeError(
            f"subscribe_annotated needs an instance, whose methods it binds, and was given the class "
            f"{target.__qualname__}: pass {target.__qualname__}(...) or self"
        )
    subscriptions = list(_subscriptions(target))
    bus.claim(target)
    for event, handler in subscriptions:
        bus.subscribe(event, handler)


def _subscriptions(target: object) -> Iterator[tuple[Event[Any], Callable[[Any], None]]]:
    """Yield each tagged handler of the target, bound, once for each of its events."""
    if inspect.isfunction(target):
        yield from ((event, target) for event in _events_of(target))
        return
    if isinstance(target, types.ModuleType):
        own = (value for value in vars(target).values() if getattr(value, "__module__", None) == target.__name__)
        for function in filter(inspect.isfunction, own):
            yield from ((event, function) for event in _events_of(function))
        return
    # An alias in a class body is the same handler under another name.
    attributes = {id(attribute): attribute for attribute in _class_attributes(type(target)).values()}
    for attribute in attributes.values():
        for event in _events_of(attribute):
            yield event, attribute.__get__(target, type(target))
    for function in filter(inspect.isfunction, getattr(target, "__dict__", {}).values()):
        yield from ((event, function) for event in _events_of(function))


def _class_attributes(kind: type) -> dict[str, Any]:
    """Return what the class and its bases define, by name, in the order of definition, overrides in place."""
    _verify_overrides(kind)
    return {name: attribute for base in reversed(kind.__mro__) for name, attribute in vars(base).items()}


def _verify_overrides(kind: type) -> None:
    """Refuse an object whose class has something else in the place of a handler."""
    nearest: dict[str, type] = {}
    for base in kind.__mro__:
        for name, attribute in vars(base).items():
            hider = nearest.setdefault(name, base)
            if _events_of(attribute) and not _events_of(vars(hider)[name]):
                raise TypeError(_dropped(kind, name, hider, base))


def _dropped(kind: type, name: str, hider: type, owner: type) -> str:
    """Say that something else has the name of a handler, and what to do about it."""
    override, handler = (f"{each.__module__}.{each.__qualname__}.{name}" for each in (hider, owner))
    found = f"{handler}, a handler of {', '.join(repr(event.id) for event in _events_of(vars(owner)[name]))}"
    if issubclass(hider, owner):
        return (
            f"{override} overrides {found}, without @subscribe: it would never be called. Decorate the override too, "
            "or give it another name."
        )
    return (
        f"in {kind.__module__}.{kind.__qualname__}, {override} hides {found}, without @subscribe: neither would be "
        "called. Override it with @subscribe, or give one of the two another name."
    )


def _events_of(attribute: object) -> tuple[Event[Any], ...]:
    """Return the events that a function, or the function in a static or class method, is tagged with."""
    function = attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute
    return function.__dict__.get(_TAG, ()) if inspect.isfunction(function) else ()
