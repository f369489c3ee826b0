"""Deprecated names, which still work and warn.

`warnings.deprecated` (PEP 702) needs Python 3.13. Type checkers read the one of `typing_extensions`, which they bundle,
so nothing has to be installed.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

TCallable = TypeVar("TCallable", bound=Callable[..., Any])

if TYPE_CHECKING:
    from typing_extensions import deprecated
else:

    def deprecated(message: str) -> Callable[[TCallable], TCallable]:
        """Mark a function as deprecated. Each call warns, with the location of the caller.

        Args:
            message: What to use instead.

        Returns:
            The decorator.
        """

        def mark(function: TCallable) -> TCallable:
            @functools.wraps(function)
            def warned(*args: Any, **kwargs: Any) -> Any:
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return function(*args, **kwargs)

            warned.__deprecated__ = message
            return warned

        return mark


def deprecated_names(module: str, names: Mapping[str, tuple[object, str]]) -> Callable[[str], object]:
    """Make the `__getattr__` of a module with deprecated names.

    Args:
        module: The name of the module.
        names: For each deprecated name its value, and what to use instead.

    Returns:
        A function that warns, with the location of the caller, and returns the value of the name.
    """

    def look_up(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value, message = names[name]
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return value

    return look_up


__all__ = ["deprecated", "deprecated_names"]
