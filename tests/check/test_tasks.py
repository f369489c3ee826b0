"""What the checker knows of the classes of d9d that programs derive from."""

import inspect

import pytest

import d9d
from d9d_check.values import DEFINED_BY_D9D


@pytest.mark.parametrize("name", DEFINED_BY_D9D)
def test_what_a_class_defines_is_what_the_table_says(name: str) -> None:
    """So that a mixin which comes after the class is known to be hidden by it."""
    members = vars(getattr(d9d, name))

    assert {each for each in members if inspect.isfunction(members[each])} == DEFINED_BY_D9D[name]
