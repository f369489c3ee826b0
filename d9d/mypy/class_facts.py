"""What the body of a class says, kept with the class in mypy's cache: its handlers, and what its methods do.

mypy's cache keeps neither bodies nor decorators. So each fact is read while the source is at hand, and stored as plain
lists of words in the metadata of the class, where checks of its subclasses find it.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, TypeGuard

from mypy.nodes import (
    LDEF,
    MDEF,
    AssignmentStmt,
    Block,
    CallExpr,
    ComparisonExpr,
    Decorator,
    Expression,
    ExpressionStmt,
    FuncDef,
    LambdaExpr,
    MemberExpr,
    MypyFile,
    NameExpr,
    Node,
    RefExpr,
    Statement,
    StrExpr,
    SuperExpr,
    SymbolNode,
    SymbolTableNode,
    TypeInfo,
    Var,
)
from mypy.server.trigger import make_trigger
from mypy.types import Instance, LiteralType, get_proper_type

from d9d.mypy import names
from d9d.mypy.registrations import registrations
from d9d.mypy.syntax import (
    assigning_methods,
    attribute_of_self,
    children,
    descend,
    function_of,
    leaves_alone,
    methods,
    own_definitions,
)

Fact = dict[str, list[str]]

_KEY: Final = "d9d"
"""The entry in a class's metadata that holds its facts."""
_MARK: Final = "__d9d_facts"
"""The attribute whose type stands for the facts; mypy does not compare it with those of base classes."""

ANYTHING: Final = "*"
"""Among assigned attributes: all of them, where their names are not in the source, as with `setattr`."""
_SETTERS: Final = frozenset({"setattr", "__setattr__", "__dict__", "vars"})

SUBSCRIBES: Final = "subscribe self"
"""A use: `subscribe_annotated` is called with the object, in full or as one of its arguments."""
SUBSCRIBES_ELSEWHERE: Final = "subscribe self elsewhere"
"""A use: the same, on a bus that is certainly not the one that the method receives."""
_SELF_AND_CONTEXT: Final = 2
"""The number of parameters of `register_events`."""
THE_CLASS: Final = "class"
"""Among the names of methods, which it cannot be: a decorator of the class, which may do anything with it."""
ITSELF: Final = "self"
"""A use: the object is passed or kept somewhere, where anything may happen to it."""
HANDS_ON: Final = "bus"
"""A use: something that the method received is passed or kept, perhaps where the object is known."""
READS: Final = "read self"
"""A use, followed by a dot and an attribute that is read, or called where the call is deferred."""
CALLS: Final = "call self"
"""A use, followed by a dot and a method that is called."""
CALLS_SUPER: Final = "call super()"
"""A use, followed by a dot and a method that is looked up in the next classes."""
_HARMLESS_CALLS: Final = frozenset(
    {
        "builtins.bool",
        "builtins.callable",
        "builtins.format",
        "builtins.hasattr",
        "builtins.hash",
        "builtins.id",
        "builtins.isinstance",
        "builtins.len",
        "builtins.print",
        "builtins.repr",
        "builtins.str",
        "builtins.type",
    }
)
"""Functions that do nothing to the handlers of an object that is passed to them."""
_LOGGING: Final = frozenset({"critical", "debug", "error", "exception", "info", "log", "warn", "warning"})
"""Methods of loggers, which only format what is passed to them."""


@dataclasses.dataclass(frozen=True)
class Tag:
    """One `subscribe(event)` in the body of a class.

    Attributes:
        method: The name of the method that becomes a handler.
        event: What is passed as the event.
        applied: The expression that makes the method a handler: the decorator, or the call.
        function: The method, if it is written as a function.
    """

    method: str
    event: Expression
    applied: Expression
    function: FuncDef | None

    @property
    def event_name(self) -> str:
        """The full name of the event; empty if it has none."""
        return self.event.fullname if isinstance(self.event, RefExpr) else ""

    @property
    def call(self) -> CallExpr | None:
        """The call `subscribe(event, ...)` itself, with its filters."""
        calls = (self.applied, getattr(self.applied, "callee", None))
        return next((each for each in calls if isinstance(each, CallExpr) and event_of(each) is self.event), None)


def event_of(expression: Expression) -> Expression | None:
    """Return the event in `subscribe(event)`; `None` for any other expression."""
    if not (isinstance(expression, CallExpr) and isinstance(expression.callee, RefExpr)):
        return None
    if expression.callee.fullname != names.SUBSCRIBE:
        return None
    positional = [value for name, value in zip(expression.arg_names, expression.args, strict=True) if name is None]
    return positional[0] if positional else argument(expression, "event")


def argument(call: CallExpr, keyword: str) -> Expression | None:
    """Return what a call passes by a keyword; `None` if it does not use the keyword."""
    named = zip(call.arg_names, call.args, strict=True)
    return next((value for name, value in named if name == keyword), None)


def runtime_name(name: str, info: TypeInfo) -> str:
    """Return the name of an attribute as objects have it: Python adds the name of the class to a private one."""
    is_private = name.startswith("__") and not name.endswith("__") and info.name.strip("_")
    return f"_{info.name.lstrip('_')}{name}" if is_private else name


def source_name(name: str, info: TypeInfo) -> str:
    """Return the name of an attribute as the body of a class spells it, from the one that objects have."""
    added = f"_{info.name.lstrip('_')}"
    return name.removeprefix(added) if name.startswith(f"{added}__") else name


def definition_in(info: TypeInfo, name: str) -> SymbolTableNode | None:
    """Return what the body of a class defines under a name that objects have; `None` if it does not define it."""
    return info.names.get(source_name(name, info))


def own_tags(info: TypeInfo) -> list[Tag]:
    """Return what the body of a class subscribes, in the order of definition; empty for a class from the cache."""
    return sorted([*_decorators(info), *_assigned_tags(info)], key=lambda tag: tag.applied.line)


def own_handlers(info: TypeInfo) -> Mapping[str, list[str]]:
    """Return the subscribed methods that a class itself defines, each with the full names of its events.

    Args:
        info: A class, from its source or from the cache.

    Returns:
        The events by the name of the method as objects have it, in the order of definition; an event without a name is
        "".
    """
    return _fact(info, "handlers", _read_handlers)


def inherited_handlers(info: TypeInfo) -> dict[str, tuple[TypeInfo, list[str]]]:
    """Return all handlers of a class by name, each with the class that defines it and its events.

    A definition in a nearer class hides one in a base class, whether it is subscribed or not.
    """
    found: dict[str, tuple[TypeInfo, list[str]]] = {}
    for base in reversed(info.mro):
        handlers = own_handlers(base)
        found = {name: value for name, value in found.items() if definition_in(base, name) is None}
        found |= {name: (base, events) for name, events in handlers.items()}
    return found


def handlers_registered_by_others(info: TypeInfo, tree: MypyFile | None) -> Collection[str]:
    """Return the handlers of a class that code of its module registers, outside of the class.

    Args:
        info: A class, from its source or from the cache.
        tree: Its module, if it is known.

    Returns:
        Their names; `ANYTHING` for all handlers.
    """
    return _fact(info, "registered", lambda _: {} if tree is None else _read_registered(info, tree)).keys()


def registering_statements(info: TypeInfo) -> Iterator[tuple[str, Statement]]:
    """Yield the statements by which `register_events` of a class certainly registers the object.

    Args:
        info: A class, from its source.

    Yields:
        `SUBSCRIBES` for a call of `subscribe_annotated` with the bus of the loop, or `CALLS_SUPER`, and the statement.
    """
    symbol = info.names.get(names.REGISTER_EVENTS)
    function = symbol.node if symbol is not None else None
    if not isinstance(function, FuncDef) or len(function.arguments) != _SELF_AND_CONTEXT:
        return
    owner, context = (each.variable for each in function.arguments)
    for statement in function.body.body:
        call = statement.expr if isinstance(statement, ExpressionStmt) else None
        if not isinstance(statement, ExpressionStmt):
            if not isinstance(statement, AssignmentStmt):
                return  # what follows may not run
        elif not isinstance(call, CallExpr):
            continue
        elif isinstance(call.callee, SuperExpr) and call.callee.name == names.REGISTER_EVENTS:
            yield CALLS_SUPER, statement
        elif _subscribes(call, owner) and any(
            _is_attribute(each, context) and each.name == "event_bus" for each in call.args
        ):
            yield SUBSCRIBES, statement


def own_registering(info: TypeInfo) -> list[str]:
    """Return how `register_events` of a class certainly registers the object, as `registering_statements` says.

    Args:
        info: A class, from its source or from the cache.
    """
    return _fact(info, "registering", _read_registering).get(names.REGISTER_EVENTS, [])


def _read_registering(info: TypeInfo) -> Fact:
    found = [kind for kind, _ in registering_statements(info)]
    return {names.REGISTER_EVENTS: found} if found else {}


def reachable_methods(info: TypeInfo, start: str) -> set[str]:
    """Return the names of a method of a class and of all methods that it may call on the object."""
    found, waiting = set[str](), [start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            uses = [use for base in info.mro for use in own_uses(base).get(name, ())]
            waiting += [attribute for kind, dot, attribute in (use.rpartition(".") for use in uses) if dot]
    return found


def has_handlers(info: TypeInfo) -> bool:
    """Return whether a class or one of its bases defines handlers: only then are its attributes recorded."""
    return any(own_handlers(base) for base in info.mro)


def own_optional(info: TypeInfo) -> Mapping[str, list[str]]:
    """Return the handlers of a class that nothing needs to subscribe: `@subscribe(event, optional=True)`.

    Args:
        info: A class, from its source or from the cache.

    Returns:
        Their events by the name of the method, as `own_handlers` has them.
    """
    return _fact(info, "optional", _read_optional)


def own_assigned(info: TypeInfo) -> Fact:
    """Return which methods of a class assign each attribute; "" is the class body, `ANYTHING` is every attribute.

    Args:
        info: A class with handlers, from its source or from the cache.
    """
    return _fact(info, "assigned", lambda each: _read_assigned(each) if has_handlers(each) else {})


def own_mentioned(info: TypeInfo) -> Fact:
    """Return which methods of a class mention each handler, to call it or to subscribe it once more.

    Args:
        info: A class with handlers, from its source or from the cache.
    """
    return _fact(info, "mentioned", lambda each: _read_mentioned(each) if has_handlers(each) else {})


def own_uses(info: TypeInfo) -> Fact:
    """Return what the methods of a class do with their object, as far as that may register its handlers.

    Args:
        info: A class, from its source or from the cache.

    Returns:
        The uses by the name of the method, in words of the constants above; empty for a class that neither has handlers
        nor registers any, nor has a method that takes a bus.
    """
    return _fact(info, "uses", _read_uses)


def record(info: TypeInfo, tree: MypyFile, text: Instance) -> None:
    """Read all facts of a class, for those who find it in the cache later.

    The class gets an attribute that changes with its facts: mypy's daemon only looks at attributes.

    Args:
        info: The class, from its source.
        tree: Its module.
        text: The type `str`.
    """
    for read in (own_handlers, own_optional, own_uses, own_assigned, own_mentioned, own_registering):
        read(info)
    handlers_registered_by_others(info, tree)
    if _KEY not in info.metadata or info.is_protocol or info.is_enum:  # where each attribute has a meaning
        return
    mark = Var(_MARK, LiteralType(json.dumps(info.metadata[_KEY], sort_keys=True), text))
    mark.info = info
    mark._fullname = f"{info.fullname}.{_MARK}"  # noqa: SLF001 -- as mypy's own plugins do
    info.names[_MARK] = SymbolTableNode(MDEF, mark, plugin_generated=True)


def triggers(info: TypeInfo) -> Iterator[str]:
    """Yield what mypy's daemon fires when the facts of a base class change."""
    if any(_KEY in base.metadata for base in info.mro):
        for base in info.mro[1:]:
            yield make_trigger(f"{base.fullname}.{_MARK}")


def modules_behind(info: TypeInfo) -> set[str]:
    """Return the modules whose edit may make a class wrong: those of its bases with handlers, and of their events."""
    modules: set[str] = set()
    for base in info.mro:
        if _KEY in base.metadata:
            modules.add(base.module_name)
            modules.update(name.rpartition(".")[0] for events in own_handlers(base).values() for name in events)
    return modules - {""}


def _fact(info: TypeInfo, name: str, read: Callable[[TypeInfo], Fact]) -> Fact:
    """Return a fact about the body of a class.

    Args:
        info: A class, from its source or from the cache.
        name: The name under which the cache keeps the fact.
        read: Finds the fact in the body; an empty one is not kept.
    """
    if not info.defn.defs.body:
        stored: Fact = info.metadata.get(_KEY, {}).get(name, {})
        return stored
    fact = read(info)
    facts = {**info.metadata.get(_KEY, {}), name: fact}
    if fact or _KEY in info.metadata:
        info.metadata[_KEY] = facts
    return fact


def _decorators(info: TypeInfo) -> Iterator[Tag]:
    for name, definition in own_definitions(info):
        if isinstance(definition, Decorator):
            for decorator in definition.original_decorators:
                if (event := event_of(decorator)) is not None:
                    yield Tag(name, event, decorator, definition.func)


def _assigned_tags(info: TypeInfo) -> Iterator[Tag]:
    """Yield where a class keeps the result of `subscribe(event)(function)` as its method."""
    for statement in info.defn.defs.body:
        if isinstance(statement, AssignmentStmt) and isinstance(statement.rvalue, CallExpr):
            event = event_of(statement.rvalue.callee)
            for target in statement.lvalues:
                if event is not None and isinstance(target, NameExpr):
                    yield Tag(target.name, event, statement.rvalue, None)


def _read_handlers(info: TypeInfo) -> Fact:
    handlers: Fact = {}
    for tag in own_tags(info):
        handlers.setdefault(runtime_name(tag.method, info), []).append(tag.event_name)
    return handlers


def _read_optional(info: TypeInfo) -> Fact:
    optional: Fact = {}
    for tag in own_tags(info):
        call = tag.call
        value = None if call is None else argument(call, "optional")
        if value is not None and not (isinstance(value, NameExpr) and value.fullname == "builtins.False"):
            optional.setdefault(runtime_name(tag.method, info), []).append(tag.event_name)
    return optional


def _read_assigned(info: TypeInfo) -> Fact:
    found = {
        runtime_name(attribute, info): [runtime_name(method, info) for method in assigning]
        for attribute, assigning in assigning_methods(info, augmented=False).items()
    }
    for method in methods(info):
        if any(getattr(node, "name", "") in _SETTERS for node in descend(method.body)):
            found.setdefault(ANYTHING, []).append(runtime_name(method.name, info))
    return found


def _read_mentioned(info: TypeInfo) -> Fact:
    handlers = {name for base in info.mro for name in own_handlers(base)}
    found: Fact = {}
    for method in methods(info):
        for node in descend(method.body):
            name = node.name if isinstance(node, SuperExpr) else attribute_of_self(node)
            calls_overridden = isinstance(node, SuperExpr) and name == method.name
            known = runtime_name(name or "", info)
            if known in handlers and not calls_overridden:
                found.setdefault(known, []).append(runtime_name(method.name, info))
    return found


def _read_registered(info: TypeInfo, tree: MypyFile) -> Fact:
    registers_itself = any(base.fullname in (names.BASE_TASK, names.MODEL_PROVIDER) for base in info.mro)
    if not (registers_itself and has_handlers(info)):
        return {}
    return {
        runtime_name(each.handler, info) if each.handler else ANYTHING: []
        for each in registrations(tree)
        if info.fullname in each.classes
    }


def _read_uses(info: TypeInfo) -> Fact:
    is_registered = any(names.REGISTER_EVENTS in base.names or own_handlers(base) for base in info.mro)
    if not (is_registered or any(map(_takes_bus, methods(info)))):
        return {}
    uses: dict[str, set[str]] = {}
    if not all(map(leaves_alone, info.defn.decorators)):
        uses[THE_CLASS] = {ITSELF}
    for name, definition in own_definitions(info):
        function = function_of(definition)
        if function is not None:
            found = uses.setdefault(runtime_name(name, info), set())
            found.update(_with_runtime_names(_uses_of(function), info))
            decorators = definition.original_decorators if isinstance(definition, Decorator) else []
            if not all(leaves_alone(each) or event_of(each) is not None for each in decorators):
                found.add(ITSELF)
    return {name: sorted(each) for name, each in uses.items()}


def _takes_bus(function: FuncDef) -> bool:
    kinds = [get_proper_type(each.variable.type) for each in function.arguments]
    return any(isinstance(kind, Instance) and kind.type.fullname == names.EVENT_BUS for kind in kinds)


def _with_runtime_names(uses: Iterable[str], info: TypeInfo) -> Iterator[str]:
    for use in uses:
        kind, dot, name = use.rpartition(".")
        yield f"{kind}{dot}{runtime_name(name, info)}"


def _uses_of(function: FuncDef) -> Iterator[str]:
    if function.arguments and not function.is_static:
        owner = function.arguments[0].variable
        for child in _without_dead_functions(function):
            yield from _uses_in(child, owner, deferred=False)


def _without_dead_functions(function: FuncDef) -> Iterator[Node]:
    """Yield the children of a function, without the functions in its body that nothing mentions."""
    mentioned = {node.name for node in descend(function) if isinstance(node, NameExpr)}
    for child in children(function):
        if not isinstance(child, Block):
            yield child
            continue
        yield from (each for each in child.body if not isinstance(each, FuncDef) or each.name in mentioned)


def _uses_in(node: Node, owner: SymbolNode, *, deferred: bool) -> Iterator[str]:
    """Yield what is done with the object in a node and below it.

    Args:
        node: Where to begin.
        owner: The parameter that is the object.
        deferred: Whether the node is in a function within the method, which may run at any time.
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
    if isinstance(node, CallExpr) and isinstance(node.callee, RefExpr) and _subscribes(node, owner):
        yield SUBSCRIBES_ELSEWHERE if _is_other_bus(node.args[0]) else SUBSCRIBES


def _subscribes(call: CallExpr, owner: SymbolNode) -> bool:
    is_known = isinstance(call.callee, RefExpr) and call.callee.fullname == names.SUBSCRIBE_ANNOTATED
    return is_known and any(_is_object(each, owner) for each in call.args)


def _is_other_bus(bus: Expression) -> bool:
    """Return whether a bus belongs to something that the object or the method keeps, such as another loop."""
    return isinstance(bus, MemberExpr) and bus.name == "event_bus" and not isinstance(bus.expr, NameExpr)


def _below(node: Node, owner: SymbolNode) -> Iterable[Node]:
    """Return the nodes below one whose own use is known that may use the object too."""
    if isinstance(node, SuperExpr) or _is_attribute(node, owner):
        return ()
    if isinstance(node, AssignmentStmt) and any(_is_attribute(target, owner) for target in node.lvalues):
        return (node.rvalue,)
    if isinstance(node, CallExpr) and _is_attribute(node.callee, owner):
        return node.args
    if isinstance(node, CallExpr) and _is_harmless(node, owner):
        return [argument for argument in node.args if not _is_object(argument, owner)]
    if isinstance(node, ComparisonExpr):
        return [operand for operand in node.operands if not _is_object(operand, owner)]
    return children(node)


def _is_harmless(call: CallExpr, owner: SymbolNode) -> bool:
    """Return whether a call only reads or formats its arguments; f-strings are calls of `str.format`."""
    callee = call.callee
    if isinstance(callee, RefExpr) and callee.fullname in _HARMLESS_CALLS:
        return True
    if not isinstance(callee, MemberExpr):
        return False
    is_formatting = isinstance(callee.expr, StrExpr) and callee.name in ("format", "join")
    return is_formatting or (
        callee.name in _LOGGING and isinstance(callee.expr, RefExpr) and not _is_object(callee.expr, owner)
    )


def _is_object(node: Node, owner: SymbolNode) -> bool:
    """Return whether a name is the object; mypy binds no names in code that it considers unreachable."""
    return isinstance(node, NameExpr) and (node.node or node.name) in (owner, owner.name)


def _is_attribute(node: Node, owner: SymbolNode) -> TypeGuard[MemberExpr]:
    return isinstance(node, MemberExpr) and _is_object(node.expr, owner)


def _hands_on(node: Node, owner: SymbolNode) -> bool:
    """Return whether a node keeps or passes something of the method's own, other than to the bus or to `super()`."""
    if isinstance(node, AssignmentStmt):
        kept = any(_is_attribute(target, owner) for target in node.lvalues)
        return kept and _mentions_local(node.rvalue, owner)
    if not isinstance(node, CallExpr) or isinstance(node.callee, SuperExpr) or _is_harmless(node, owner):
        return False
    on_bus = isinstance(node.callee, MemberExpr) and node.callee.name == "subscribe"
    return not on_bus and any(_mentions_local(argument, owner) for argument in node.args)


def _mentions_local(node: Node, owner: SymbolNode) -> bool:
    return any(
        isinstance(each, NameExpr) and each.kind in (LDEF, None) and not _is_object(each, owner)
        for each in descend(node)
    )
