"""The `@subscribe` decorator, and the function that subscribes all decorated handlers of an object."""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, final, overload

from d9d.loop.event.bus import Claim, Event, EventBus, Filter, TContext
from d9d.loop.event.handler import describe_handler

TSelf = TypeVar("TSelf")

_TAGS = "__d9d_tags__"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tag(Generic[TContext]):
    """What `@subscribe` records of a handler.

    Attributes:
        event: The event that it handles.
        filter: When it is called.
        is_optional: Whether a loop may run without subscribing it.
    """

    event: Event[TContext]
    filter: Filter
    is_optional: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedHandler:
    """A handler of an object, as `@subscribe` marked it.

    Attributes:
        handler: The handler, bound to the object.
        tag: What the decorator recorded.
    """

    handler: Callable[[Any], None]
    tag: Tag[Any]


@final
class SubscribeDecorator(Generic[TContext]):
    """The decorator that `subscribe` returns.

    It is an object whose call is overloaded, with the method form first, so that every type checker rejects a wrong
    context by the signature alone, and so that the mypy plugin can check more: mypy has a hook for the call of an
    object, but none for a function used as a decorator.
    """

    __slots__ = ("_tag",)

    def __init__(self, tag: Tag[TContext]) -> None:
        self._tag = tag

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
        event_id = self._tag.event.id
        function = getattr(handler, "__func__", handler)
        if not inspect.isfunction(function):
            raise TypeError(f"@subscribe for event {event_id!r} decorates methods and functions, not {handler!r}")
        tags = _tags_of(function)
        if any(tag.event == self._tag.event for tag in tags):
            raise ValueError(
                f"{describe_handler(function)} is decorated twice with @subscribe for event {event_id!r}: remove one "
                "of the two"
            )
        # Decorators are applied from the bottom up, and the topmost one shall come first.
        setattr(function, _TAGS, (self._tag, *tags))
        return handler


def subscribe(
    event: Event[TContext],
    *,
    every: int | None = None,
    once: bool = False,
    main_process_only: bool = False,
    optional: bool = False,
) -> SubscribeDecorator[TContext]:
    """Mark a method or a function as a handler of an event.

    This does not subscribe it yet: `subscribe_annotated` subscribes all marked methods of an object. A method may be
    marked with several events.

    Args:
        event: The event that the decorated function handles.
        every: Call it only in the steps in which `stepper.is_due(every)` is true: in each step that completes this
            many, and in the last one. For events that lie in a step.
        once: Call it once in this process; with `every`, in the first step that is due.
        main_process_only: Call it in the main process of the job alone.
        optional: Accept that no process subscribes it. A loop refuses other marked methods of its task, providers and
            subscribers that nothing has subscribed when the loop is configured.

    Returns:
        The decorator.

    Raises:
        TypeError: If `event` is not an `Event`, for example because `@subscribe` was written without one; or
            `every` is no integer.
        ValueError: If `every` is less than 1, or the event does not lie in a step.
    """
    if not isinstance(event, Event):
        raise TypeError(f"@subscribe needs an event, as in @subscribe(EVENT_TRAIN_READY), but found {event!r}")
    declared = Filter(every=every, once=once, main_process_only=main_process_only)
    declared.verify(event)
    return SubscribeDecorator(Tag(event=event, filter=declared, is_optional=optional))


def subscribe_annotated(bus: EventBus, target: object) -> None:
    """Subscribe all methods of an object that are decorated with `@subscribe`, in the order of their definition.

    Handlers of base classes come before those of derived classes; an override takes the position of the method that it
    overrides. Attributes are looked up on the classes, so no property of the object is evaluated.

    Args:
        bus: The bus to subscribe the handlers on.
        target: An instance; or a module, for its decorated functions; or a decorated function.

    Raises:
        TypeError: If the target is a class, or if its class overrides a handler without `@subscribe`.
        ValueError: If the target has been subscribed on this bus before. While a loop is configured, this is one of
            the faults of handlers that its one error lists.
    """
    if isinstance(target, type):
        raise TypeError(
            f"subscribe_annotated needs an instance, but found the class {target.__qualname__}: pass "
            f"{target.__qualname__}(...) or self"
        )
    tagged = list(tagged_handlers(target))
    caller = sys._getframe(1)  # noqa: SLF001 -- `inspect.currentframe` calls the same, and may return `None`
    claim = Claim(target=target, has_handlers=bool(tagged), file=caller.f_code.co_filename, line=caller.f_lineno)
    if not bus.claim(claim):
        return
    for each in tagged:
        declared = each.tag.filter
        bus.subscribe(
            each.tag.event,
            each.handler,
            every=declared.every,
            once=declared.once,
            main_process_only=declared.main_process_only,
        )


def tagged_handlers(target: object, *, verifies: bool = True) -> Iterator[TaggedHandler]:
    """Yield each decorated handler of an object, bound, once for each of its events.

    Args:
        target: What `subscribe_annotated` takes.
        verifies: Whether to refuse a class that overrides a handler without `@subscribe`; otherwise it has no such
            handler.

    Raises:
        TypeError: If its class overrides a handler without `@subscribe`.
    """
    if verifies:
        _verify_overrides(type(target))
    for handler, tags in _bound_handlers(target):
        yield from (TaggedHandler(handler=handler, tag=tag) for tag in tags)


def tags_of(handler: object) -> tuple[Tag[Any], ...]:
    """Return what `@subscribe` recorded of a function or a bound method, one tag for each of its events."""
    return _tags_of(getattr(handler, "__func__", handler))


def _bound_handlers(target: object) -> Iterator[tuple[Callable[[Any], None], tuple[Tag[Any], ...]]]:
    """Yield each function or bound method of an object, with what it is decorated with, in the order of definition."""
    if inspect.isfunction(target):
        yield target, _tags_of(target)
        return
    if isinstance(target, types.ModuleType):
        own = (value for value in vars(target).values() if getattr(value, "__module__", None) == target.__name__)
        yield from ((function, _tags_of(function)) for function in filter(inspect.isfunction, own))
        return
    # By identity, because an alias in a class body is the same handler under another name.
    attributes = {id(attribute): attribute for attribute in _class_attributes(type(target)).values()}
    for attribute in attributes.values():
        if tags := _tags_of(attribute):
            yield attribute.__get__(target, type(target)), tags
    for function in filter(inspect.isfunction, getattr(target, "__dict__", {}).values()):
        yield function, _tags_of(function)


def _class_attributes(kind: type) -> dict[str, Any]:
    """Return the attributes of a class and its bases in the order of definition; an override keeps the first place."""
    return {name: attribute for base in reversed(kind.__mro__) for name, attribute in vars(base).items()}


def _verify_overrides(kind: type) -> None:
    """Refuse a class in which an attribute without `@subscribe` overrides or hides a handler."""
    nearest: dict[str, type] = {}
    for base in kind.__mro__:
        for name, attribute in vars(base).items():
            hider = nearest.setdefault(name, base)
            if _tags_of(attribute) and not _tags_of(vars(hider)[name]):
                raise TypeError(_dropped(kind, name, hider, base))


def _dropped(kind: type, name: str, hider: type, owner: type) -> str:
    """Describe an attribute that overrides or hides a handler, and what to do about it."""
    override, handler = (f"{each.__module__}.{each.__qualname__}.{name}" for each in (hider, owner))
    found = f"{handler}, a handler of {', '.join(repr(tag.event.id) for tag in _tags_of(vars(owner)[name]))}"
    if issubclass(hider, owner):
        return (
            f"{override} overrides {found}, but has no @subscribe, so it would never be called. Decorate the override "
            "too, or give it another name."
        )
    return (
        f"in {kind.__module__}.{kind.__qualname__}, {override} hides {found}, but has no @subscribe, so neither would "
        "be called. Override it with @subscribe, or give one of the two another name."
    )


def _tags_of(attribute: object) -> tuple[Tag[Any], ...]:
    """Return what a function, or the function in a static or class method, is decorated with."""
    function = attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute
    return function.__dict__.get(_TAGS, ()) if inspect.isfunction(function) else ()
