"""The marks for `d9d check`: they change nothing about a function."""

import pytest

from d9d import collective, waits_for_device


def test_a_mark_returns_the_function_itself() -> None:
    """So a call costs what it did before, and keeps its signature."""

    def double(value: int) -> int:
        return 2 * value

    assert collective(waits_for_device(double)) is double
    assert double(4) == 8


def test_a_mark_above_a_property_is_refused() -> None:
    """A property is no function: the error says where the mark belongs."""
    function = property(lambda self: self)

    with pytest.raises(TypeError, match=r"@collective is above @property, .*: put it below @property"):
        collective(function)  # type: ignore[type-var]
