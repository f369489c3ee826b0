"""The events that a module defines, as its source has them."""

import dataclasses
import functools
from collections.abc import Iterator

from mypy.nodes import (
    AssignmentExpr,
    AssignmentStmt,
    Block,
    CallExpr,
    Expression,
    FuncDef,
    IndexExpr,
    LambdaExpr,
    MypyFile,
    NameExpr,
    Node,
    OpExpr,
    RefExpr,
    StrExpr,
    TypeAlias,
    Var,
)
from mypy.types import Instance, Type, get_proper_type

from d9d.mypy import names
from d9d.mypy.tree import children


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventDefinition:
    """A call of `Event` in the source.

    Attributes:
        call: The call.
        constant: The name that it is assigned to; empty where there is none.
        declared: The type that this name is declared with.
        id: Its id, where the source tells it.
        function: The innermost function around it; nothing if it is called when the module is imported.
    """

    call: CallExpr
    constant: str
    declared: Type | None
    id: str | None
    function: Node | None

    def repeats(self, other: "EventDefinition") -> bool:
        """Say whether a program that runs this definition has run another one of the same id.

        Definitions of one name are alternatives, and functions may each have a bus of their own.
        """
        is_alternative = bool(self.constant) and self.constant == other.constant
        has_run = other.function is None or other.function is self.function
        return self.id is not None and self.id == other.id and has_run and not is_alternative


@functools.lru_cache(maxsize=1)
def event_definitions(module: MypyFile) -> tuple[EventDefinition, ...]:
    """Return the events that a module defines, in the order of its source; its names must be bound."""
    return tuple(_below(module, None))


def literal_text(expression: Expression) -> str | None:
    """Return the text that an expression has in every run: a literal, a final name of one, or a sum of such."""
    if isinstance(expression, StrExpr):
        return expression.value
    if isinstance(expression, RefExpr) and isinstance(expression.node, Var):
        value = expression.node.final_value
        return value if isinstance(value, str) else None
    if isinstance(expression, OpExpr) and expression.op == "+":
        left, right = literal_text(expression.left), literal_text(expression.right)
        return None if left is None or right is None else left + right
    return None


def _below(node: Node, function: Node | None) -> Iterator[EventDefinition]:
    if isinstance(node, Block) and node.is_unreachable:
        return
    inner = node if isinstance(node, FuncDef | LambdaExpr) else function
    for child in children(node):
        if isinstance(child, CallExpr) and _is_event(child.callee):
            constant, declared = _assigned(node, child)
            yield EventDefinition(call=child, constant=constant, declared=declared, id=_id(child), function=inner)
        yield from _below(child, inner)


def _id(call: CallExpr) -> str | None:
    named = (argument for name, argument in zip(call.arg_names, call.args, strict=True) if name == "id")
    return next(map(literal_text, named), None)


def _assigned(parent: Node, call: CallExpr) -> tuple[str, Type | None]:
    """Return the name that a call is assigned to right where it stands, and the type that the name is declared with."""
    targets: list[Expression] = []
    if isinstance(parent, AssignmentStmt):
        targets = list(parent.lvalues)
    elif isinstance(parent, AssignmentExpr) and parent.value is call:
        targets = [parent.target]
    constant = next((target.name for target in targets if isinstance(target, NameExpr)), "")
    return constant, parent.type if isinstance(parent, AssignmentStmt) else None


def _is_event(callee: Expression) -> bool:
    """Say whether an expression is the class `Event`, with or without the type of its context."""
    reference = callee.base if isinstance(callee, IndexExpr) else callee
    if not isinstance(reference, RefExpr):
        return False
    if isinstance(reference.node, TypeAlias):
        target = get_proper_type(reference.node.target)
        return isinstance(target, Instance) and target.type.fullname == names.EVENT
    return reference.fullname == names.EVENT
