"""Where names, and the attributes of `self`, get their values."""

from collections.abc import Iterator

from mypy.nodes import (
    AssignmentExpr,
    AssignmentStmt,
    DictionaryComprehension,
    Expression,
    ForStmt,
    FuncDef,
    GeneratorExpr,
    LambdaExpr,
    ListExpr,
    MemberExpr,
    NameExpr,
    Node,
    OperatorAssignmentStmt,
    StarExpr,
    TempNode,
    TupleExpr,
    TypeInfo,
    Var,
    WithStmt,
)

from d9d.mypy.tree import descend, is_scope


def attribute_of_self(expression: Node) -> str | None:
    """Return the name of the attribute in `self.attribute`; nothing for what is none."""
    if not isinstance(expression, MemberExpr) or not isinstance(expression.expr, NameExpr):
        return None
    owner = expression.expr
    # mypy binds no names in code that it thinks never runs, such as that for another version of Python.
    is_self = owner.node.is_self if isinstance(owner.node, Var) else owner.node is None and owner.name == "self"
    return expression.name if is_self else None


def identity(reference: Node) -> object:
    """Return what is the same for all mentions of a name, or of an attribute of `self`; nothing for anything else."""
    return reference.node if isinstance(reference, NameExpr) else attribute_of_self(reference)


def values_of(reference: Expression, function: FuncDef | LambdaExpr) -> list[Expression | None]:
    """Return all that a local name of a function, or an attribute of its `self`, is assigned in the source.

    Args:
        reference: The name or the attribute.
        function: Where it is read.

    Returns:
        The values, or what they are taken from, such as that which a loop runs over; `None` for one that is not
        written down. Nothing for parameters, and where the source is unknown.
    """
    if isinstance(reference, NameExpr) and isinstance(reference.node, Var):
        places = targets(function.body)
        return [value for target, value in places if isinstance(target, NameExpr) and target.node is reference.node]
    attribute, info = attribute_of_self(reference), function.info
    if attribute is None or not info:
        return []
    if any(attribute in base.names for base in info.mro[1:]):
        return [None]
    return [value for name, _, value in _attributes(info) if name == attribute]


def assigning_methods(info: TypeInfo, *, augmented: bool = True) -> dict[str, list[str]]:
    """Return which methods of a class assign each attribute of its objects.

    Args:
        info: A class whose source is known.
        augmented: Whether `self.attribute += value` counts, which needs a value to begin with.

    Returns:
        The names of the methods by that of the attribute; "" for a value in the class body.
    """
    found: dict[str, list[str]] = {}
    for attribute, method, _ in _attributes(info, augmented=augmented):
        found.setdefault(attribute, []).append(method)
    return found


def methods(info: TypeInfo) -> Iterator[FuncDef]:
    """Yield what a class body defines as functions, under conditions and decorators as well."""
    for node in descend(info.defn.defs, lambda child: not is_scope(child)):
        if isinstance(node, FuncDef):
            yield node


def targets(
    node: Node, *, nested: bool = False, augmented: bool = True
) -> Iterator[tuple[Expression, Expression | None]]:
    """Yield what is assigned below a node, each with what its value is, or is taken from, where that is written.

    Args:
        node: Where to look.
        nested: Whether to look into functions and classes below it as well.
        augmented: Whether to look at `target += value` as well.
    """
    for each in descend(node, lambda child: nested or not is_scope(child)):
        for target, value in _assigned(each) if augmented or not isinstance(each, OperatorAssignmentStmt) else ():
            yield from _unpacked(target, value)


def _attributes(info: TypeInfo, *, augmented: bool = True) -> Iterator[tuple[str, str, Expression | None]]:
    """Yield each attribute that a class gives a value, with the name of the method and the value."""
    for target, value in targets(info.defn.defs):
        if isinstance(target, NameExpr):
            yield target.name, "", value
    for method in methods(info):
        for target, value in targets(method.body, nested=True, augmented=augmented):
            attribute = attribute_of_self(target)
            if attribute is not None:
                yield attribute, method.name, value


def _assigned(node: Node) -> Iterator[tuple[Expression, Expression | None]]:
    """Yield what a single statement or expression assigns."""
    match node:
        case AssignmentStmt(rvalue=TempNode(no_rhs=True)):
            pass
        case AssignmentStmt():
            yield from ((target, node.rvalue) for target in node.lvalues)
        case AssignmentExpr():
            yield node.target, node.value
        case OperatorAssignmentStmt():
            yield node.lvalue, None
        case ForStmt():
            yield node.index, node.expr
        case GeneratorExpr() | DictionaryComprehension():
            yield from zip(node.indices, node.sequences, strict=True)
        case WithStmt():
            yield from ((target, None) for target in node.target if target is not None)
        case _:
            pass


def _unpacked(target: Expression, value: Expression | None) -> Iterator[tuple[Expression, Expression | None]]:
    if not isinstance(target, TupleExpr | ListExpr):
        yield target, value
        return
    values: list[Expression | None] = [value] * len(target.items)
    if isinstance(value, TupleExpr) and len(value.items) == len(values):
        values = list(value.items)
    for item, part in zip(target.items, values, strict=True):
        yield from _unpacked(item.expr if isinstance(item, StarExpr) else item, part)
