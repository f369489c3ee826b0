"""What is called when an event is triggered. Standard library only."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any


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
        signature = _signature(handler)
    except ValueError:  # some built-in callables do not tell theirs
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"{named} must accept exactly one argument, the context, and its signature is {signature}: {error}"
        ) from None


def _signature(handler: Callable[[Any], None]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # Annotations are evaluated when they are asked for, and may name what only type checkers import.
        import annotationlib  # noqa: PLC0415 -- new in Python 3.14

        return inspect.signature(handler, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(handler)


def _body(handler: Callable[..., None]) -> Callable[..., None]:
    """Return the function that runs when the handler is called, as far as that can be seen."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else type(handler).__call__
