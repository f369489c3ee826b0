"""Which expressions are the rank of a process, and on which side of a condition about ranks some code is."""

from typing import Final

from mypy.nodes import (
    CallExpr,
    ComparisonExpr,
    ConditionalExpr,
    Expression,
    FuncDef,
    IndexExpr,
    LambdaExpr,
    MemberExpr,
    NameExpr,
    OpExpr,
    RefExpr,
    StrExpr,
    UnaryExpr,
)

from d9d.mypy.syntax import identity, values_of

_FUNCTIONS: Final = frozenset(
    f"torch.distributed.distributed_c10d.{name}" for name in ("get_rank", "get_node_local_rank", "get_group_rank")
)
_METHODS: Final = frozenset({"get_rank", "get_local_rank", "get_coordinate"})
_FLAGS: Final = frozenset(
    f"is_{which}{what}"
    for which in ("main", "master", "rank_zero", "rank0", "global_zero", "local_main", "world_main", "first_rank")
    for what in ("", "_process", "_rank")
)
_NUMBERS: Final = frozenset({"rank", "global_rank", "local_rank", "world_rank", "node_rank", "dp_rank"})
_VARIABLES: Final = frozenset({"RANK", "LOCAL_RANK", "NODE_RANK"})
_EQUALITIES: Final = {"==": True, "in": True, "is": True, "!=": False, "not in": False, "is not": False}
_DEPTH: Final = 3


def side(test: Expression, function: FuncDef | LambdaExpr, *, holds: bool = True, depth: int = _DEPTH) -> bool | None:
    """Say for which ranks code under a condition runs.

    Args:
        test: What is tested.
        function: The function in which it is.
        holds: Whether the code is reached where the test holds, and not where it does not.
        depth: How many assignments to follow back.

    Returns:
        True if the rank that the condition names reaches the code, as under `rank == 0`; False if the others do, as
        under `rank != 0`; `None` if the condition is not about ranks, or is about something else as well.
    """
    if isinstance(test, UnaryExpr) and test.op == "not":
        return side(test.expr, function, holds=not holds, depth=depth)
    if isinstance(test, OpExpr) and test.op in {"and", "or"}:
        sides = [side(part, function, holds=holds, depth=depth) for part in (test.left, test.right)]
        is_either_enough = holds == (test.op == "and")
        known = [each for each in sides if each is not None]
        return known[0] if len(known) > (0 if is_either_enough else 1) else None
    if isinstance(test, ComparisonExpr):
        decided = _side_of_comparison(test, function)
    elif _name(test) in _FLAGS or _is_certain(test):
        decided = _name(test) in _FLAGS  # a rank itself is true of all but the first
    else:
        decided = _side_of_value(test, function, depth)
    return None if decided is None else decided == holds


def is_about_rank(expression: Expression, function: FuncDef | LambdaExpr) -> bool:
    """Return whether an expression is a rank, or a condition on one."""
    return _is_rank(expression, function) or side(expression, function) is not None


def _side_of_comparison(test: ComparisonExpr, function: FuncDef | LambdaExpr) -> bool | None:
    """Return the side of a comparison; a variable's name alone counts only if it is compared like a rank."""
    operator, operands = test.operators[0], test.operands
    if operator in _EQUALITIES:
        about = any(_is_rank(operand, function) for operand in operands)
        return _EQUALITIES[operator] if about else None
    about = any(_is_rank(operand, function, by_name=False) for operand in operands)
    return operator in {"<", "<="} if about else None


def _side_of_value(test: Expression, function: FuncDef | LambdaExpr, depth: int) -> bool | None:
    """Return the side of the value of a name or an attribute, if it is assigned once."""
    values = values_of(test, function)
    if len(values) != 1 or values[0] is None or depth == 0:
        return None
    return side(values[0], function, depth=depth - 1)


def _is_rank(
    expression: Expression, function: FuncDef | LambdaExpr, *, by_name: bool = True, seen: set[object] | None = None
) -> bool:
    """Return whether an expression is a rank, by its value or else by its name."""
    if _is_certain(expression):
        return True
    seen, key = set() if seen is None else seen, identity(expression)
    if key in seen:
        return False
    seen |= {key} - {None}
    match expression:
        case OpExpr():
            origins: list[Expression | None] = [expression.left]
        case ConditionalExpr():
            origins = [expression.if_expr, expression.else_expr]
        case _:
            origins = values_of(expression, function)
    if by_name and _name(expression) in _NUMBERS and all(map(_is_opaque, origins)):
        return True
    # An attribute with a longer name, such as "lora_rank", is something else.
    by_name = by_name and not (isinstance(expression, MemberExpr) and _name(expression) not in _NUMBERS)
    return any(origin is not None and _is_rank(origin, function, by_name=by_name, seen=seen) for origin in origins)


def _is_opaque(origin: Expression | None) -> bool:
    """Return whether an origin does not show what a value is, so that its name must decide."""
    if isinstance(origin, CallExpr) and isinstance(origin.callee, RefExpr):
        return not origin.callee.fullname.startswith("builtins.")
    return origin is None


def _is_certain(expression: Expression) -> bool:
    """Return whether an expression reads the rank of this process, whatever it is assigned to."""
    match expression:
        case CallExpr(callee=RefExpr(fullname=name)) if name in _FUNCTIONS:
            return True
        case CallExpr(callee=MemberExpr(name=name)) if name in _METHODS:
            return True
        case CallExpr(callee=RefExpr(fullname="builtins.int")) if expression.args:
            return _is_certain(expression.args[0])
        case CallExpr(args=[StrExpr(value=value), *_]) | IndexExpr(index=StrExpr(value=value)):
            return value in _VARIABLES
        case MemberExpr(name="rank", expr=owner):
            return _name(owner) in {"dist_context", "distributed_context"}
    return False


def _name(expression: Expression) -> str:
    """Return the last name in an expression, in lower case and without leading underscores."""
    return expression.name.lstrip("_").lower() if isinstance(expression, NameExpr | MemberExpr) else ""
