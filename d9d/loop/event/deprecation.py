"""Names that will go, and still work: whoever uses one is told what to use instead. Standard library only.

What a checker knows of PEP 702 is in `typing_extensions`, which nothing has to install: here it is read by checkers
alone. At run time `warnings.deprecated` would need Python 3.13.
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
        """Mark a function as one that will go: each call warns, at the place of the call.

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
    """Make the `__getattr__` of a module that still answers to names that will go.

    Args:
        module: The name of the module.
        names: For each name what it stands for, and what to use instead.

    Returns:
        A function that warns, at the place that asks, and returns the very object that the name stands for.
    """

    def look_up(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value, message = names[name]
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return value

    return look_up


__all__ = ["deprecated", "deprecated_names"]
