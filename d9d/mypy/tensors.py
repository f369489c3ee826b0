"""Which expressions are tensors, and which of them the host already has."""

from collections.abc import Iterator
from typing import Final

from mypy.nodes import CallExpr, Expression, MemberExpr, NameExpr, Node, StrExpr
from mypy.types import Instance, Type, TypeVarType, UnionType, get_proper_type

from d9d.mypy.assignments import identity, values_of
from d9d.mypy.bodies import HandlerBody
from d9d.mypy.tree import children, descend

_TENSOR: Final = "torch._tensor.Tensor"
_MODULE: Final = "torch.nn.modules.module.Module"
"""Whatever a module is asked for, mypy takes for a tensor or a module: that says nothing."""

_FACTORIES: Final = frozenset(
    {
        *("tensor", "as_tensor", "from_numpy", "scalar_tensor", "zeros", "ones", "empty", "full", "eye"),
        *("arange", "linspace", "logspace", "rand", "randn", "randint", "randperm", "get_rng_state"),
    }
)


def is_tensor(kind: Type | None) -> bool:
    """Say whether values of a type may be tensors, as far as their author has said."""
    proper = get_proper_type(kind)
    if isinstance(proper, UnionType):
        items = [get_proper_type(item) for item in proper.items]
        modules = [item for item in items if isinstance(item, Instance) and item.type.has_base(_MODULE)]
        return not modules and any(is_tensor(item) for item in items)
    if isinstance(proper, TypeVarType):
        return is_tensor(proper.upper_bound)
    return isinstance(proper, Instance) and proper.type.has_base(_TENSOR)


def is_on_host(expression: Expression, body: HandlerBody, seen: set[object] | None = None) -> bool:
    """Say whether a tensor has been brought to the host, or was made there: to read it again waits for nothing.

    Args:
        expression: The tensor.
        body: Where it is read.
        seen: The names and attributes whose values have been looked at.
    """
    match expression:
        case CallExpr(callee=MemberExpr(name="cpu")):
            return True
        case CallExpr(callee=MemberExpr(name="to")) if _names_the_host(expression):
            return True
        case CallExpr(callee=NameExpr() | MemberExpr() as factory) if factory.name in _FACTORIES:
            return "device" not in expression.arg_names
    seen, key = set() if seen is None else seen, identity(expression)
    if key in seen:
        return True  # it is made of a value from before, and one that is not on the host has ended the search
    seen |= {key} - {None}
    sources = list(values_of(expression, body.function) or _operands(expression, body))
    return bool(sources) and all(source is not None and is_on_host(source, body, seen) for source in sources)


def _names_the_host(call: CallExpr) -> bool:
    """Say whether `to` moves a tensor to the host."""
    words = [node for argument in call.args for node in descend(argument)]
    return any(isinstance(word, StrExpr) and word.value == "cpu" for word in words)


def _operands(node: Node, body: HandlerBody) -> Iterator[Expression]:
    """Yield the tensors that an expression is made of."""
    for child in children(node):
        if isinstance(child, Expression) and is_tensor(body.type_of(child)):
            yield child
        else:
            yield from _operands(child, body)
