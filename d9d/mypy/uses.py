"""What the methods of a class do with their object, as far as its handlers could be registered by it."""

from collections.abc import Iterable, Iterator
from typing import Final, TypeGuard

from mypy.nodes import (
    LDEF,
    AssignmentStmt,
    CallExpr,
    Decorator,
    FuncDef,
    LambdaExpr,
    MemberExpr,
    NameExpr,
    Node,
    RefExpr,
    SuperExpr,
    SymbolNode,
    TypeInfo,
)

from d9d.mypy import names
from d9d.mypy.facts import Fact, recall
from d9d.mypy.handlers import event_of, own_handlers
from d9d.mypy.methods import function_of, leaves_alone, own_definitions
from d9d.mypy.tree import children, descend

_USES: Final = "uses"

THE_CLASS: Final = "class"
"""What stands for the name of a method, which it cannot be: a decorator of the class makes of it what it likes."""
ITSELF: Final = "self"
"""The object goes somewhere, and what happens to it there is unknown."""
HANDS_ON: Final = "bus"
"""Something that the method received goes somewhere, perhaps to where the object is known."""
HARMLESS_CALLS: Final = frozenset(
    {"builtins.hash", "builtins.id", "builtins.isinstance", "builtins.repr", "builtins.str", "builtins.type"}
)
"""Whom the object may be passed to, and nothing can happen to its handlers there."""
READS: Final = "read self"
"""Followed by a dot and the name of an attribute that is read, or called where the call is deferred."""
CALLS: Final = "call self"
"""Followed by a dot and the name of a method that is called."""
CALLS_SUPER: Final = "call super()"
"""Followed by a dot and the name of a method that is looked up in farther classes."""


def own_uses(info: TypeInfo) -> Fact:
    """Return how the methods that a class defines use their object, where that may matter.

    Args:
        info: A class, from its source or from the cache.

    Returns:
        By the name of each method its uses, in words of the constants above; nothing for a class that neither has
        handlers nor registers any.
    """
    return recall(info, _USES, _read)


def _read(info: TypeInfo) -> Fact:
    if not any(names.REGISTER_EVENTS in base.names or own_handlers(base) for base in info.mro):
        return {}
    uses: dict[str, set[str]] = {}
    if not all(map(leaves_alone, info.defn.decorators)):
        uses[THE_CLASS] = {ITSELF}
    for name, definition in own_definitions(info):
        function = function_of(definition)
        if function is not None:
            uses.setdefault(name, set()).update(_uses_of(function))
            if not _calls_only_itself(definition):
                uses[name].add(ITSELF)
    return {name: sorted(each) for name, each in uses.items()}


def _uses_of(function: FuncDef) -> Iterator[str]:
    if function.arguments and not function.is_static:
        owner = function.arguments[0].variable
        for child in children(function):
            yield from _uses_in(child, owner, deferred=False)


def _uses_in(node: Node, owner: SymbolNode, *, deferred: bool) -> Iterator[str]:
    """Yield what is done with the object below a node.

    Args:
        node: Where to begin.
        owner: The parameter that is the object.
        deferred: Whether the node is in a function within the method, which runs whenever it is called.
    """
    deferred = deferred or isinstance(node, FuncDef | LambdaExpr)
    yield from _uses_at(node, owner, deferred=deferred)
    for each in _below(node, owner):
        yield from _uses_in(each, owner, deferred=deferred)


def _uses_at(node: Node, owner: SymbolNode, *, deferred: bool) -> Iterator[str]:
    """Yield what a node itself does with the object."""
    if _is_object(node, owner):
        yield ITSELF
    elif isinstance(node, SuperExpr):
        yield f"{CALLS_SUPER}.{node.name}"
    elif _is_attribute(node, owner):
        yield f"{READS}.{node.name}"
    elif isinstance(node, CallExpr) and _is_attribute(node.callee, owner):
        yield f"{READS if deferred else CALLS}.{node.callee.name}"
    if _hands_on(node, owner):
        yield HANDS_ON


def _below(node: Node, owner: SymbolNode) -> Iterable[Node]:
    """Return where else to look, below a node that has said what it does itself."""
    if isinstance(node, SuperExpr) or _is_attribute(node, owner):
        return ()
    if isinstance(node, AssignmentStmt) and any(_is_attribute(target, owner) for target in node.lvalues):
        return (node.rvalue,)
    if isinstance(node, CallExpr) and _is_attribute(node.callee, owner):
        return node.args
    if isinstance(node, CallExpr) and isinstance(node.callee, RefExpr) and node.callee.fullname in HARMLESS_CALLS:
        return [argument for argument in node.args if not _is_object(argument, owner)]
    return children(node)


def _is_object(node: Node, owner: SymbolNode) -> bool:
    """Say whether a name is the object; mypy binds no names where it thinks that the code never runs."""
    return isinstance(node, NameExpr) and (node.node or node.name) in (owner, owner.name)


def _is_attribute(node: Node, owner: SymbolNode) -> TypeGuard[MemberExpr]:
    return isinstance(node, MemberExpr) and _is_object(node.expr, owner)


def _hands_on(node: Node, owner: SymbolNode) -> bool:
    """Say whether a node keeps or passes on something of the method's own, other than to the bus or a farther class."""
    if isinstance(node, AssignmentStmt):
        kept = any(_is_attribute(target, owner) for target in node.lvalues)
        return kept and _mentions_local(node.rvalue, owner)
    if not isinstance(node, CallExpr) or isinstance(node.callee, SuperExpr):
        return False
    on_bus = isinstance(node.callee, MemberExpr) and node.callee.name == "subscribe"
    return not on_bus and any(_mentions_local(argument, owner) for argument in node.args)


def _mentions_local(node: Node, owner: SymbolNode) -> bool:
    return any(
        isinstance(each, NameExpr) and each.kind in (LDEF, None) and not _is_object(each, owner)
        for each in descend(node)
    )


def _calls_only_itself(definition: object) -> bool:
    """Say whether no decorator is given the method, to call it or its object as it likes."""
    decorators = definition.original_decorators if isinstance(definition, Decorator) else []
    return all(leaves_alone(each) or event_of(each) is not None for each in decorators)
