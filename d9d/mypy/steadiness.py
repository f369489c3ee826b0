"""Conditions that are the same in every step, and so keep nothing from happening in each of them."""

from typing import Final

from mypy.nodes import (
    CallExpr,
    ComparisonExpr,
    Expression,
    FuncItem,
    IntExpr,
    MemberExpr,
    NameExpr,
    OpExpr,
    StrExpr,
    UnaryExpr,
    Var,
)
from mypy.types import Instance, LiteralType, NoneType, Type, UnionType, get_proper_type

from d9d.mypy import ranks
from d9d.mypy.assignments import assigning_methods, attribute_of_self, values_of
from d9d.mypy.bodies import HandlerBody
from d9d.mypy.guards import Guards
from d9d.mypy.tensors import is_tensor

_ALWAYS_STEADY: Final = frozenset({"builtins.isinstance", "builtins.hasattr", "builtins.callable"})
_AT_THE_BEGINNING: Final = frozenset({"", "__init__", "__post_init__", "__new__", "register_events"})
_IMMUTABLE: Final = frozenset(f"builtins.{name}" for name in ("bool", "int", "float", "str"))
_LITERALS: Final = frozenset({"builtins.True", "builtins.False", "builtins.None"})
_DEPTH: Final = 3


def runs_in_every_step(guards: Guards, body: HandlerBody) -> bool:
    """Say whether nothing above some code can keep it from running in most steps.

    A condition that nothing is known about may well be one that holds once in a while.

    Args:
        guards: The conditions for the code.
        body: The handler of an event that fires in every step.
    """
    return all(guard.test is not None and _is_steady(guard.test, body, _DEPTH) for guard in guards)


def _is_steady(test: Expression, body: HandlerBody, depth: int) -> bool:
    """Say whether a condition is the same in every step: one on the numbers in a tensor depends on the data."""
    match test:
        case UnaryExpr():
            parts = [test.expr]
        case OpExpr():
            parts = [test.left, test.right]
        case ComparisonExpr():
            asks_for_none = test.operators[0] in {"is", "is not"}
            parts = [each for each in test.operands if not (asks_for_none and _is_there(each, body))]
        case CallExpr(callee=NameExpr() | MemberExpr() as callee):
            return ranks.is_about(test, body.function) or _is_steady_call(test, callee.fullname, body)
        case _:
            return _is_settled(test, body, depth)
    return all(_is_steady(part, body, depth) for part in parts)


def _is_steady_call(call: CallExpr, function: str, body: HandlerBody) -> bool:
    """Say whether a function asks for nothing that changes from step to step."""
    return function in _ALWAYS_STEADY or (function.startswith("torch.") and not is_tensor(body.type_of(call)))


def _is_there(operand: Expression, body: HandlerBody) -> bool:
    """Say whether something is there in all steps or in none, as far as what is asked for it tells."""
    if (attribute := attribute_of_self(operand)) is not None:
        return _is_set_at_the_beginning(attribute, body.function)
    if not is_tensor(body.type_of(operand)):
        return False
    return isinstance(operand, MemberExpr) or len(values_of(operand, body.function)) == 1


def _is_settled(reference: Expression, body: HandlerBody, depth: int) -> bool:
    """Say whether a literal, a name or an attribute keeps its value from step to step."""
    function = body.function
    if isinstance(reference, IntExpr | StrExpr) or ranks.is_about(reference, function):
        return True
    if not isinstance(reference, NameExpr | MemberExpr) or not _is_immutable(body.type_of(reference)):
        return False
    if (attribute := attribute_of_self(reference)) is not None:
        return _is_set_at_the_beginning(attribute, function)
    if (values := values_of(reference, function)) and depth > 0:
        return len(values) == 1 and values[0] is not None and _is_steady(values[0], body, depth - 1)
    return _is_constant(reference) or any(reference.node is argument.variable for argument in function.arguments[1:])


def _is_immutable(kind: Type | None) -> bool:
    """Say whether values of a type never change by themselves, as those of a list do."""
    proper = get_proper_type(kind)
    if isinstance(proper, UnionType):
        return all(map(_is_immutable, proper.items))
    if isinstance(proper, LiteralType):
        return True
    return isinstance(proper, NoneType) or (isinstance(proper, Instance) and proper.type.fullname in _IMMUTABLE)


def _is_constant(reference: NameExpr | MemberExpr) -> bool:
    node = reference.node
    is_global = isinstance(node, Var) and "." in node.fullname and (node.is_final or node.name.isupper())
    return is_global or reference.fullname in _LITERALS


def _is_set_at_the_beginning(attribute: str, function: FuncItem) -> bool:
    info = function.info
    if any(attribute in base.names for base in info.mro[1:]):
        return False
    places = assigning_methods(info).get(attribute)
    return places is not None and _AT_THE_BEGINNING.issuperset(places)
