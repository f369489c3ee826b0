"""What is known of a class from its source, and remembered where it comes from mypy's cache without one."""

import json
from collections.abc import Callable, Iterator
from typing import Final

from mypy.nodes import MDEF, SymbolTableNode, TypeInfo, Var
from mypy.server.trigger import make_trigger
from mypy.types import Instance, LiteralType

Fact = dict[str, list[str]]

KEY: Final = "d9d"
"""Where a class keeps what is known of it."""
_MARK: Final = "__d9d_facts"
"""The attribute whose type stands for the facts; mypy compares no private attributes with those of other classes."""


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


def publish(info: TypeInfo, text: Instance) -> None:
    """Give a class an attribute that changes with its facts: mypy's daemon looks at attributes alone.

    Args:
        info: The class, whose facts have all been read.
        text: The type `str`.
    """
    if KEY not in info.metadata or info.is_protocol or info.is_enum:  # where each attribute means something
        return
    mark = Var(_MARK, LiteralType(json.dumps(info.metadata[KEY], sort_keys=True), text))
    mark.info = info
    mark._fullname = f"{info.fullname}.{_MARK}"  # noqa: SLF001 -- mypy's own plugins do so
    info.names[_MARK] = SymbolTableNode(MDEF, mark, plugin_generated=True)


def triggers(info: TypeInfo) -> Iterator[str]:
    """Yield what the daemon fires when the facts of a base class change."""
    if any(KEY in base.metadata for base in info.mro):
        for base in info.mro[1:]:
            yield make_trigger(f"{base.fullname}.{_MARK}")
