"""What the code of a module registers on a bus: objects of which classes, and which of their handlers."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Final

from mypy.nodes import (
    CallExpr,
    ConditionalExpr,
    Expression,
    FuncDef,
    LambdaExpr,
    ListExpr,
    MemberExpr,
    MypyFile,
    NameExpr,
    Node,
    RefExpr,
    SetExpr,
    TupleExpr,
    TypeInfo,
    Var,
)
from mypy.types import Instance, get_proper_type

from d9d.mypy import names
from d9d.mypy.syntax import attribute_of_self, calls, children, targets, values_of

_DEPTH: Final = 4
_BUSES: Final = frozenset({"bus", "event_bus"})
"""The last words in the names of buses."""

_Around = tuple[FuncDef | LambdaExpr, ...]
"""The functions around an expression, the innermost last."""


@dataclasses.dataclass(frozen=True)
class Registration:
    """A call that registers an object, other than `self`, or one of its handlers.

    Attributes:
        classes: The full names of all classes that the object may be an instance of. By name, because mypy's daemon
            makes a new object for a class that it analyses again.
        handler: The handler; empty for all handlers of the object.
    """

    classes: frozenset[str]
    handler: str


@functools.lru_cache(maxsize=1)
def registrations(tree: MypyFile) -> tuple[Registration, ...]:
    """Return what a module registers, apart from what the methods of a class register of their own object.

    Args:
        tree: The module. Its names must be bound.
    """
    # An object of an unknown class may be any that the module creates.
    constructed = {
        call.callee.node
        for call in calls(tree)
        if isinstance(call.callee, RefExpr) and isinstance(call.callee.node, TypeInfo)
    }
    return tuple(
        Registration(
            frozenset(base.fullname for info in _known(target, around, tree) or constructed for base in info.mro),
            handler,
        )
        for call, around in _calls(tree, ())
        for target, handler in _registered(call)
        if not _is_self(target)
    )


def _calls(node: Node, around: _Around) -> Iterator[tuple[CallExpr, _Around]]:
    """Yield the calls below a node, each with the functions around it."""
    if isinstance(node, CallExpr):
        yield node, around
    inner = (*around, node) if isinstance(node, FuncDef | LambdaExpr) else around
    for child in children(node):
        yield from _calls(child, inner)


def _registered(call: CallExpr) -> Iterator[tuple[Expression, str]]:
    """Yield the objects that a call registers, or passes together with a bus, each with the handler if it is one."""
    callee = call.callee
    if isinstance(callee, RefExpr) and callee.fullname == names.SUBSCRIBE_ANNOTATED:
        named = dict(zip(call.arg_names, call.args, strict=True))
        found = named.get("target", call.args[-1] if call.args else None)
        yield from ((each, "") for each in _items(found) if found is not None)
    elif isinstance(callee, MemberExpr) and callee.name == "subscribe":
        yield from ((each.expr, each.name) for each in call.args if isinstance(each, MemberExpr))
    elif any(map(_is_bus, call.args)):
        yield from ((each, "") for argument in call.args if not _is_bus(argument) for each in _items(argument))


def _items(expression: Expression | None) -> Iterator[Expression]:
    if isinstance(expression, ListExpr | TupleExpr | SetExpr):
        for item in expression.items:
            yield from _items(item)
    elif expression is not None:
        yield expression


def _is_bus(expression: Expression) -> bool:
    name = expression.name if isinstance(expression, NameExpr | MemberExpr) else ""
    return name.lstrip("_") in _BUSES or name.endswith("_bus")


def _is_self(expression: Expression) -> bool:
    return isinstance(expression, NameExpr) and isinstance(expression.node, Var) and expression.node.is_self


def _known(target: Expression, around: _Around, tree: MypyFile) -> frozenset[TypeInfo]:
    """Return the classes that an object may be of; empty if they are not known."""
    found = _classes(target, around, tree, _DEPTH)
    return frozenset() if None in found else frozenset(each for each in found if each is not None)


def _classes(target: Expression | None, around: _Around, tree: MypyFile, depth: int) -> set[TypeInfo | None]:
    """Return the classes that an object may be of; `None` among them stands for any other."""
    if depth == 0 or target is None:
        return {None}
    origins: list[Expression | None] = []
    if isinstance(target, CallExpr):
        made = target.callee.node if isinstance(target.callee, RefExpr) else None
        return {made if isinstance(made, TypeInfo) else None}
    if isinstance(target, ConditionalExpr):
        origins = [target.if_expr, target.else_expr]
    elif isinstance(target, ListExpr | TupleExpr | SetExpr):
        origins = list(target.items)
    elif isinstance(target, NameExpr) and isinstance(target.node, Var):
        declared = get_proper_type(target.node.type)
        if isinstance(declared, Instance) and declared.type.fullname != "builtins.object":
            return {declared.type}
        origins = _values(target.node, around, tree)
    elif around and attribute_of_self(target) is not None:
        origins = values_of(target, around[-1])
    if not origins:
        return {None}
    return {each for origin in origins for each in _classes(origin, around, tree, depth - 1)}


def _values(variable: Var, around: _Around, tree: MypyFile) -> list[Expression | None]:
    """Return the values that the functions around an expression, or else the module, assign to a variable."""
    for body in (*(function.body for function in reversed(around)), tree):
        found = [value for place, value in targets(body) if isinstance(place, NameExpr) and place.node is variable]
        if found:
            return found
    return []
