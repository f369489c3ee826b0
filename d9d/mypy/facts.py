"""What is known of a class from its source, and remembered where it comes from mypy's cache without one."""

from collections.abc import Callable
from typing import Final

from mypy.nodes import TypeInfo

Fact = dict[str, list[str]]

KEY: Final = "d9d"
"""Where a class keeps what is known of it."""


def recall(info: TypeInfo, name: str, read: Callable[[TypeInfo], Fact]) -> Fact:
    """Return a fact about the body of a class: mypy's cache keeps no bodies and no decorators.

    Args:
        info: A class, from its source or from the cache.
        name: What the fact is called; it is kept in the cache with the class.
        read: Finds the fact in the body; an empty one is not kept.

    Returns:
        The fact.
    """
    if not info.defn.defs.body:
        remembered: Fact = info.metadata.get(KEY, {}).get(name, {})
        return remembered
    fact = read(info)
    facts = {**info.metadata.get(KEY, {}), name: fact}
    if fact or KEY in info.metadata:
        info.metadata[KEY] = facts
    return fact
