"""Walks over mypy's tree. Its visitors cannot be subclassed where it is compiled, so the nodes are asked themselves."""

from collections.abc import Callable, Iterator

from mypy.nodes import (
    AssignmentStmt,
    CallExpr,
    ClassDef,
    Decorator,
    FuncDef,
    ImportBase,
    LambdaExpr,
    Node,
    OverloadedFuncDef,
    Var,
)
from mypy.patterns import AsPattern, ClassPattern, MappingPattern, OrPattern, SequencePattern, ValuePattern

_ATTRIBUTES = {
    AssignmentStmt: ("lvalues", "rvalue"),
    ClassDef: ("decorators", "base_type_exprs", "defs"),
    Decorator: ("original_decorators", "func"),
    AsPattern: ("pattern",),
    ClassPattern: ("class_ref", "positionals", "keyword_values"),
    MappingPattern: ("keys", "values"),
    OrPattern: ("patterns",),
    SequencePattern: ("patterns",),
    ValuePattern: ("expr",),
}
"""What lies below a node whose `__match_args__` leave something out."""

_ELSEWHERE = frozenset({"name", "node", "info", "type", "types"})


def descend(node: Node, enters: Callable[[Node], bool] = lambda _: True) -> Iterator[Node]:
    """Yield a node and all that is written below it, in the order of the source.

    Args:
        node: Where to begin.
        enters: Says of a node whether to look below it; what lies below the first one is always shown.
    """
    yield node
    for child in children(node):
        if enters(child):
            yield from descend(child, enters)
        else:
            yield child


def children(node: Node) -> Iterator[Node]:
    """Yield what is written right below a node."""
    if isinstance(node, ImportBase | Var):
        return
    if isinstance(node, OverloadedFuncDef):
        yield from node.items
        return
    for attribute in _ATTRIBUTES.get(type(node), getattr(node, "__match_args__", ())):
        if attribute not in _ELSEWHERE:
            yield from _nodes(getattr(node, attribute))


def is_scope(node: Node) -> bool:
    """Say whether names assigned below a node are its own."""
    return isinstance(node, FuncDef | LambdaExpr | ClassDef)


def calls(node: Node, enters: Callable[[Node], bool] = lambda _: True) -> Iterator[CallExpr]:
    """Yield the calls that are written below a node."""
    return (each for each in descend(node, enters) if isinstance(each, CallExpr))


def _nodes(value: object) -> Iterator[Node]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, Node) and not isinstance(value, Var):
        yield value
