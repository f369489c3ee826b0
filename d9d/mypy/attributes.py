"""What the methods of a class with handlers do with the attributes of its objects."""

from typing import Final

from mypy.nodes import SuperExpr, TypeInfo

from d9d.mypy.assignments import assigning_methods, attribute_of_self, methods
from d9d.mypy.facts import Fact, recall
from d9d.mypy.handlers import own_handlers
from d9d.mypy.tree import descend

_ASSIGNED: Final = "assigned"
_MENTIONED: Final = "mentioned"
_SETTERS: Final = frozenset({"setattr", "__setattr__", "__dict__", "vars"})

ANYTHING: Final = "*"
"""Stands for all attributes, where their names are not written down."""


def is_remembered(info: TypeInfo) -> bool:
    """Say whether more is kept of a class than mypy does: only what may have handlers is looked into."""
    return any(own_handlers(base) for base in info.mro)


def own_assigned(info: TypeInfo) -> Fact:
    """Return which methods of a class assign each attribute; "" for its body, and all for `ANYTHING`.

    Args:
        info: A class that is remembered, from its source or from the cache.
    """
    return recall(info, _ASSIGNED, lambda each: _assigned(each) if is_remembered(each) else {})


def own_mentioned(info: TypeInfo) -> Fact:
    """Return which methods of a class name each handler, to call it or to subscribe it once more.

    Args:
        info: A class that is remembered, from its source or from the cache.
    """
    return recall(info, _MENTIONED, lambda each: _mentioned(each) if is_remembered(each) else {})


def _assigned(info: TypeInfo) -> Fact:
    found = assigning_methods(info, augmented=False)
    for method in methods(info):
        if any(getattr(node, "name", "") in _SETTERS for node in descend(method.body)):
            found.setdefault(ANYTHING, []).append(method.name)
    return found


def _mentioned(info: TypeInfo) -> Fact:
    handlers = {name for base in info.mro for name in own_handlers(base)}
    found: Fact = {}
    for method in methods(info):
        for node in descend(method.body):
            name = node.name if isinstance(node, SuperExpr) else attribute_of_self(node)
            calls_farther_one = isinstance(node, SuperExpr) and name == method.name
            if name in handlers and not calls_farther_one:
                found.setdefault(name, []).append(method.name)
    return found
