"""Decorators of another module, for the cases of lost tags."""

import functools
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def kept_elsewhere(function: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)

    return call


def lost_elsewhere(function: Callable[P, None]) -> Callable[P, None]:
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)

    return call
