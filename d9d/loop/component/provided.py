"""What tasks and providers return, held against what the loop expects of them."""

from collections.abc import Callable
from typing import Any, TypeVar

TResult = TypeVar("TResult")


def expect_result(result: object, kind: type[TResult], source: Callable[..., Any]) -> TResult:
    """Refuse a result of another type where it is returned, not where its parts are missed.

    Args:
        result: What was returned.
        kind: What was to be returned.
        source: The method, or the provider, that returned it.

    Returns:
        The result.

    Raises:
        TypeError: If the result is of another type.
    """
    if isinstance(result, kind):
        return result
    name = getattr(source, "__qualname__", type(source).__qualname__)
    raise TypeError(f"{name} returned a {type(result).__qualname__}: return a {kind.__qualname__}(...)")
