"""Walks over mypy's syntax tree: what is below a node, methods, assignments, and results that nothing uses.

Where mypy is compiled, its visitors cannot be subclassed; the functions here look at the attributes of the nodes.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final

from mypy.nodes import (
    LDEF,
    AssignmentExpr,
    AssignmentStmt,
    CallExpr,
    ClassDef,
    Decorator,
    DictionaryComprehension,
    Expression,
    ExpressionStmt,
    ForStmt,
    FuncDef,
    GeneratorExpr,
    ImportBase,
    LambdaExpr,
    ListExpr,
    MemberExpr,
    MypyFile,
    NameExpr,
    Node,
    OperatorAssignmentStmt,
    OverloadedFuncDef,
    RefExpr,
    StarExpr,
    SymbolNode,
    TempNode,
    TupleExpr,
    TypeInfo,
    Var,
    WithStmt,
)
from mypy.patterns import AsPattern, ClassPattern, MappingPattern, OrPattern, SequencePattern, ValuePattern

from d9d.mypy import names

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
"""The children of nodes whose `__match_args__` are incomplete."""

_NO_CHILDREN = frozenset({"name", "node", "info", "type", "types"})

_REDEFINITION: Final = "-redefinition"
"""What mypy appends to a name that another branch of an `if` defines again."""
_HARMLESS_DECORATORS: Final = frozenset(
    {
        "abc.abstractmethod",
        "builtins.classmethod",
        "builtins.property",
        "builtins.staticmethod",
        "dataclasses.dataclass",
        "functools.cached_property",
        "torch.autograd.grad_mode.inference_mode",
        "torch.autograd.grad_mode.no_grad",
        "typing.final",
        "typing.overload",
        "typing.override",
        "typing.runtime_checkable",
        "typing_extensions.final",
        "typing_extensions.override",
    }
)
"""Decorators that may call what they decorate, but neither register it nor replace it by what would."""


def descend(node: Node, enters: Callable[[Node], bool] = lambda _: True) -> Iterator[Node]:
    """Yield a node and everything below it, in the order of the source.

    Args:
        node: Where to begin.
        enters: Whether to look below a node; it is not asked about the first one.
    """
    yield node
    for child in children(node):
        if enters(child):
            yield from descend(child, enters)
        else:
            yield child


def children(node: Node) -> Iterator[Node]:
    """Yield the direct children of a node."""
    if isinstance(node, ImportBase | Var):
        return
    if isinstance(node, OverloadedFuncDef):
        yield from node.items
        return
    for attribute in _ATTRIBUTES.get(type(node), getattr(node, "__match_args__", ())):
        if attribute not in _NO_CHILDREN:
            yield from _nodes(getattr(node, attribute))


def is_scope(node: Node) -> bool:
    """Return whether names that are assigned below a node are local to it."""
    return isinstance(node, FuncDef | LambdaExpr | ClassDef)


def calls(node: Node) -> Iterator[CallExpr]:
    """Yield the calls below a node."""
    return (each for each in descend(node) if isinstance(each, CallExpr))


def argument(call: CallExpr, keyword: str) -> Expression | None:
    """Return what a call passes by a keyword; `None` if it does not use the keyword."""
    named = zip(call.arg_names, call.args, strict=True)
    return next((value for name, value in named if name == keyword), None)


def event_of(expression: Expression) -> Expression | None:
    """Return the event in `subscribe(event)`; `None` for any other expression."""
    if not (isinstance(expression, CallExpr) and isinstance(expression.callee, RefExpr)):
        return None
    if expression.callee.fullname != names.SUBSCRIBE:
        return None
    positional = [value for name, value in zip(expression.arg_names, expression.args, strict=True) if name is None]
    return positional[0] if positional else argument(expression, "event")


def _nodes(value: object) -> Iterator[Node]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, Node) and not isinstance(value, Var):
        yield value


def own_definitions(info: TypeInfo) -> Iterator[tuple[str, SymbolNode | None]]:
    """Yield the name and the definition of everything in a class body; one for each branch of an `if`."""
    for name, symbol in info.names.items():
        parts = symbol.node.items if isinstance(symbol.node, OverloadedFuncDef) else [symbol.node]
        for part in parts:
            yield name.partition(_REDEFINITION)[0], part


def function_of(definition: object) -> FuncDef | None:
    """Return the function in a definition, with or without decorators; `None` for other definitions."""
    function = definition.func if isinstance(definition, Decorator) else definition
    return function if isinstance(function, FuncDef) else None


def leaves_alone(decorator: Expression) -> bool:
    """Return whether a decorator is known not to replace, tag or keep the function that it decorates."""
    called = decorator.callee if isinstance(decorator, CallExpr) else decorator
    return isinstance(called, RefExpr) and called.fullname in _HARMLESS_DECORATORS


def is_plain(definition: object) -> bool:
    """Return whether a definition is a function whose decorators, if it has any, do not replace, tag or keep it."""
    if isinstance(definition, Decorator):
        return all(map(leaves_alone, definition.original_decorators))
    return isinstance(definition, FuncDef)


def is_property(definition: object) -> bool:
    """Return whether a definition is a property."""
    return isinstance(definition, Decorator) and definition.func.is_property


def attribute_of_self(expression: Node) -> str | None:
    """Return the name of the attribute in `self.attribute`; `None` for any other expression."""
    if not isinstance(expression, MemberExpr) or not isinstance(expression.expr, NameExpr):
        return None
    owner = expression.expr
    # mypy binds no names in code that it considers unreachable, such as code for another version of Python.
    is_self = owner.node.is_self if isinstance(owner.node, Var) else owner.node is None and owner.name == "self"
    return expression.name if is_self else None


def identity(reference: Node) -> object:
    """Return a key that all mentions of a name, or of an attribute of `self`, share; `None` for anything else."""
    return reference.node if isinstance(reference, NameExpr) else attribute_of_self(reference)


def values_of(reference: Expression, function: FuncDef | LambdaExpr) -> list[Expression | None]:
    """Return the values that the source assigns to a local name of a function, or to an attribute of its `self`.

    Args:
        reference: The name or the attribute.
        function: Where it is read.

    Returns:
        The values, or what they are taken from, such as what a loop iterates over; `None` for a value that is not in
        the source. Empty for parameters, and where the source is unknown.
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
        augmented: Whether `self.attribute += value` counts, which only works on an attribute that has a value.

    Returns:
        The names of the methods by the name of the attribute; "" is the class body.
    """
    found: dict[str, list[str]] = {}
    for attribute, method, _ in _attributes(info, augmented=augmented):
        found.setdefault(attribute, []).append(method)
    return found


def methods(info: TypeInfo) -> Iterator[FuncDef]:
    """Yield the functions in a class body, also those with decorators or under conditions."""
    for node in descend(info.defn.defs, lambda child: not is_scope(child)):
        if isinstance(node, FuncDef):
            yield node


def targets(
    node: Node, *, nested: bool = False, augmented: bool = True
) -> Iterator[tuple[Expression, Expression | None]]:
    """Yield each target that is assigned below a node, with its value or what that is taken from, if it is written.

    Args:
        node: Where to look.
        nested: Whether to look into functions and classes below it.
        augmented: Whether to include `target += value`.
    """
    for each in descend(node, lambda child: nested or not is_scope(child)):
        for target, value in _assigned(each) if augmented or not isinstance(each, OperatorAssignmentStmt) else ():
            yield from _unpacked(target, value)


def _attributes(info: TypeInfo, *, augmented: bool = True) -> Iterator[tuple[str, str, Expression | None]]:
    """Yield each attribute that a class assigns, with the name of the method and the value."""
    for target, value in targets(info.defn.defs):
        if isinstance(target, NameExpr):
            yield target.name, "", value
    for method in methods(info):
        for target, value in targets(method.body, nested=True, augmented=augmented):
            attribute = attribute_of_self(target)
            if attribute is not None:
                yield attribute, method.name, value


def _assigned(node: Node) -> Iterator[tuple[Expression, Expression | None]]:
    """Yield the targets of a single statement or expression, each with its value."""
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


def is_unused(call: CallExpr, module: MypyFile, *, passive: Collection[str] = ()) -> bool:
    """Return whether nothing uses the result of a call.

    Args:
        call: The call.
        module: The module that the call is in.
        passive: Attributes of the result; reading them does not count as a use.

    Returns:
        Whether the call is a whole statement, or is assigned to local names that nothing reads.
    """
    read: set[object] = set()
    kept_in: list[Expression] = []
    inactive = [node.expr for node in descend(module) if isinstance(node, MemberExpr) and node.name in passive]
    is_discarded = call in inactive
    assigned = set[int]()
    for node in descend(module):
        if isinstance(node, ExpressionStmt) and node.expr is call:
            is_discarded = True
        elif isinstance(node, AssignmentStmt):
            parts = [part for target in node.lvalues for part in _unpacked(target, node.rvalue)]
            kept_in += [target for target, value in parts if value is call]
            assigned.update(id(target) for target, _ in parts)
        elif isinstance(node, NameExpr) and id(node) not in assigned and node not in inactive:
            read.add(node.node)
    are_unread = all(isinstance(each, NameExpr) and each.kind == LDEF and each.node not in read for each in kept_in)
    return is_discarded or (bool(kept_in) and are_unread)
