"""Marks that say what a function does, for `d9d check`, which then knows it wherever the function is called."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["collective", "waits_for_device"]

MARKS: Final = "__d9d_marks__"
"""The attribute of a function that has its marks."""

TFunction = TypeVar("TFunction", bound=Callable[..., Any])


def collective(function: TFunction) -> TFunction:
    """Mark a function that all ranks must call, because it communicates.

    `d9d check` reports a call that only some ranks reach. Overrides of a marked method are marked too. The function
    itself is returned, so a call costs nothing more. Put the mark below `@property`, `@classmethod` and the like:

    ```python
    @collective
    def mean_over_ranks(value: torch.Tensor) -> torch.Tensor: ...
    ```

    Args:
        function: The function or method.
    """
    return _marked(function, "collective")


def waits_for_device(function: TFunction) -> TFunction:
    """Mark a function that makes the host wait for the device, such as one that reads a tensor.

    `d9d check` reports a handler that calls it in every step. All else is as for `collective`.

    Args:
        function: The function or method.
    """
    return _marked(function, "waits_for_device")


def _marked(function: TFunction, mark: str) -> TFunction:
    if isinstance(function, property):
        raise TypeError(f"@{mark} is above @property, and marks functions only: put it below @property")
    setattr(function, MARKS, getattr(function, MARKS, frozenset()) | {mark})
    return function
