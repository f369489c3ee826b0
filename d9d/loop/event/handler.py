"""Handlers: what may be one, how messages name it, and where it is defined."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any


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


def place_of(handler: Callable[..., None]) -> tuple[str | None, int | None]:
    """Return where a handler is defined.

    Args:
        handler: Any callable.

    Returns:
        Its file, and the line where it begins, counted from 1; `None` for what is not written in Python.
    """
    function = inspect.unwrap(_body(handler))
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if inspect.iscode(code) else (None, None)
