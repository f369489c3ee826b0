"""What the host knows without waiting for the device: its own tensors, and steady conditions."""

from collections.abc import Iterator
from typing import Final

from mypy.nodes import (
    CallExpr,
    ComparisonExpr,
    Expression,
    FuncItem,
    IntExpr,
    MemberExpr,
    NameExpr,
    Node,
    OpExpr,
    StrExpr,
    UnaryExpr,
    Var,
)
from mypy.types import Instance, LiteralType, NoneType, Type, TypeVarType, UnionType, get_proper_type

from d9d.mypy.control_flow import Guards
from d9d.mypy.handler_bodies import HandlerBody
from d9d.mypy.rank_values import is_about_rank
from d9d.mypy.syntax import assigning_methods, attribute_of_self, children, descend, identity, values_of

_TENSOR: Final = "torch._tensor.Tensor"
_MODULE: Final = "torch.nn.modules.module.Module"
"""mypy infers `Tensor | Module` for any attribute of a module, which says nothing."""

_FACTORIES: Final = frozenset(
    {
        *("tensor", "as_tensor", "from_numpy", "scalar_tensor", "zeros", "ones", "empty", "full", "eye"),
        *("arange", "linspace", "logspace", "rand", "randn", "randint", "randperm", "get_rng_state"),
    }
)


def is_tensor(kind: Type | None) -> bool:
    """Return whether values of a type may be tensors, as far as the annotations say."""
    proper = get_proper_type(kind)
    if isinstance(proper, UnionType):
        items = [get_proper_type(item) for item in proper.items]
        modules = [item for item in items if isinstance(item, Instance) and item.type.has_base(_MODULE)]
        return not modules and any(is_tensor(item) for item in items)
    if isinstance(proper, TypeVarType):
        return is_tensor(proper.upper_bound)
    return isinstance(proper, Instance) and proper.type.has_base(_TENSOR)


def is_declared_on_device(expression: Expression, body: HandlerBody) -> bool | None:
    """Return whether the catalogue of a context declares that one of its fields is on the device.

    Args:
        expression: The field, as in `ctx.loss`.
        body: Where it is read.

    Returns:
        `None` for anything else, and for a context without any such field, whose catalogue may say nothing of devices.
    """
    if not isinstance(expression, MemberExpr):
        return None
    owner, modules = get_proper_type(body.type_of(expression.expr)), body.api.modules
    if not isinstance(owner, Instance) or owner.type.module_name not in modules:
        return None
    index = body.indexes.next_to(modules[owner.type.module_name].path)
    fields = index.contexts.get(owner.type.fullname, {}).get("device_fields")
    return expression.name in fields if isinstance(fields, list) else None


def is_on_host(expression: Expression, body: HandlerBody, seen: set[object] | None = None) -> bool:
    """Return whether a tensor was copied to the host or made there, so that reading it does not wait.

    Args:
        expression: The tensor.
        body: Where it is read.
        seen: The names and attributes whose values have been looked at already.
    """
    match expression:
        case CallExpr(callee=MemberExpr(name="cpu")):
            return True
        case CallExpr(callee=MemberExpr(name="to")) if _names_the_host(expression):
            return True
        case CallExpr(callee=NameExpr() | MemberExpr() as factory) if factory.name in _FACTORIES:
            return "device" not in expression.arg_names
    declared = is_declared_on_device(expression, body)
    if declared is not None:
        return not declared
    seen, key = set() if seen is None else seen, identity(expression)
    if key in seen:
        return True  # a value on the device would have ended the search already
    seen |= {key} - {None}
    sources = list(values_of(expression, body.function) or _operands(expression, body))
    return bool(sources) and all(source is not None and is_on_host(source, body, seen) for source in sources)


def _names_the_host(call: CallExpr) -> bool:
    """Return whether `to` moves a tensor to the host."""
    words = [node for argument in call.args for node in descend(argument)]
    return any(isinstance(word, StrExpr) and word.value == "cpu" for word in words)


def _operands(node: Node, body: HandlerBody) -> Iterator[Expression]:
    """Yield the tensors in an expression."""
    for child in children(node):
        if isinstance(child, Expression) and is_tensor(body.type_of(child)):
            yield child
        else:
            yield from _operands(child, body)


_ALWAYS_STEADY: Final = frozenset({"builtins.isinstance", "builtins.hasattr", "builtins.callable"})
_AT_THE_BEGINNING: Final = frozenset({"", "__init__", "__post_init__", "__new__", "register_events"})
_IMMUTABLE: Final = frozenset(f"builtins.{name}" for name in ("bool", "int", "float", "str"))
_LITERALS: Final = frozenset({"builtins.True", "builtins.False", "builtins.None"})
_DEPTH: Final = 3


def runs_in_every_step(guards: Guards, body: HandlerBody) -> bool:
    """Return whether some code runs in most steps, because each of its conditions is the same in every step.

    A condition about which nothing is known may hold only once in a while.

    Args:
        guards: The conditions for the code.
        body: The handler of an event that happens in every step.
    """
    return all(guard.test is not None and _is_steady(guard.test, body, _DEPTH) for guard in guards)


def _is_steady(test: Expression, body: HandlerBody, depth: int) -> bool:
    """Return if a condition is the same in every step; a condition on the numbers in a tensor depends on the data."""
    match test:
        case UnaryExpr():
            parts = [test.expr]
        case OpExpr():
            parts = [test.left, test.right]
        case ComparisonExpr():
            compares_with_none = test.operators[0] in {"is", "is not"}
            parts = [each for each in test.operands if not (compares_with_none and _is_there(each, body))]
        case CallExpr(callee=NameExpr() | MemberExpr() as callee):
            return is_about_rank(test, body.function) or _is_steady_call(test, callee.fullname, body)
        case _:
            return _is_settled(test, body, depth)
    return all(_is_steady(part, body, depth) for part in parts)


def _is_steady_call(call: CallExpr, function: str, body: HandlerBody) -> bool:
    """Return whether a function returns the same in every step."""
    return function in _ALWAYS_STEADY or (function.startswith("torch.") and not is_tensor(body.type_of(call)))


def _is_there(operand: Expression, body: HandlerBody) -> bool:
    """Return whether a value is `None` in every step or in none."""
    if (attribute := attribute_of_self(operand)) is not None:
        return _is_set_at_the_beginning(attribute, body.function)
    if not is_tensor(body.type_of(operand)):
        return False
    return isinstance(operand, MemberExpr) or len(values_of(operand, body.function)) == 1


def _is_settled(reference: Expression, body: HandlerBody, depth: int) -> bool:
    """Return whether a literal, a name or an attribute has the same value in every step."""
    function = body.function
    if isinstance(reference, IntExpr | StrExpr) or is_about_rank(reference, function):
        return True
    if not isinstance(reference, NameExpr | MemberExpr) or not _is_immutable(body.type_of(reference)):
        return False
    if (attribute := attribute_of_self(reference)) is not None:
        return _is_set_at_the_beginning(attribute, function)
    if (values := values_of(reference, function)) and depth > 0:
        return len(values) == 1 and values[0] is not None and _is_steady(values[0], body, depth - 1)
    return _is_constant(reference) or any(reference.node is argument.variable for argument in function.arguments[1:])


def _is_immutable(kind: Type | None) -> bool:
    """Return whether values of a type are immutable."""
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
