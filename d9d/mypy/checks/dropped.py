"""Checks that the override of a handler is a handler too: an override does not inherit the subscription."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from mypy.nodes import (
    AssignmentStmt,
    CallExpr,
    Context,
    Decorator,
    Expression,
    FuncDef,
    LambdaExpr,
    NameExpr,
    RefExpr,
    ReturnStmt,
    SymbolNode,
    TypeInfo,
    Var,
)
from mypy.subtypes import is_subtype
from mypy.typeops import function_type, map_type_from_supertype
from mypy.types import AnyType, CallableType, Type, get_proper_type

from d9d.mypy.class_facts import (
    READS,
    definition_in,
    event_of,
    own_handlers,
    own_tags,
    own_uses,
    runtime_name,
    source_name,
)
from d9d.mypy.diagnostics import DROPPED, CheckedClass
from d9d.mypy.events import find_event
from d9d.mypy.signatures import bind
from d9d.mypy.syntax import calls, descend, function_of, is_plain, is_property, own_definitions

_PARAMETERS_OF_A_METHOD: Final = 2
_WRAPPING_OBJECTS: Final = frozenset(
    {"builtins.property", "functools.cache", "functools.cached_property", "functools.lru_cache", "functools.partial"}
)
"""Decorators of the standard library that return an object which is no function."""
_KEEPING_CLASSES: Final = frozenset({"builtins.classmethod", "builtins.staticmethod", "builtins.type"})
"""Classes whose objects the bus looks into, and those that may create anything."""
_COPYING: Final = frozenset({"__dict__", "setattr", "update_wrapper", "wraps", "partial", "subscribe"})
"""Names in a decorator that may copy the attributes of the function."""


@dataclasses.dataclass(frozen=True)
class _Drop:
    """A handler that objects do not have, because a nearer class defines something else with its name.

    Attributes:
        name: The name of both.
        hider: The nearest class that defines the name, not as a handler.
        owner: The nearest class that defines the handler.
    """

    name: str
    hider: TypeInfo
    owner: TypeInfo


def check_dropped(check: CheckedClass) -> None:
    """Check that no method of a class, own or inherited, replaces a handler without being one.

    A dropped handler is reported once, at the class that drops it, and not at its subclasses.
    """
    info = check.info
    _check_decorators(check)
    for drop in _drops(info):
        inherited = any(drop.owner is other.owner for base in info.mro[1:] for other in _drops(base, drop.name))
        if inherited or _is_registered_explicitly(drop.name, info) or _is_tagged_by_call(drop.name, check):
            continue
        if drop.hider is not info:
            hiding = definition_in(drop.hider, drop.name)
            if hiding is not None and _is_accepted_by_mypy(check, drop, hiding.node):
                check.fail(_message(check, drop), info.defn, DROPPED)
        elif (override := _own_override(check, drop)) is not None:
            check.fail(_message(check, drop), override, DROPPED)


def _check_decorators(check: CheckedClass) -> None:
    """Check that no decorator above `@subscribe` replaces a handler by something without its tag."""
    for tag in own_tags(check.info):
        definition = next(
            (each for name, each in own_definitions(check.info) if function_of(each) is tag.function and name), None
        )
        if tag.function is None or not isinstance(definition, Decorator):
            continue
        above = definition.original_decorators[: definition.original_decorators.index(tag.applied)]
        losing = next((each for each in reversed(above) if _loses_tag(each, check.info.module_name)), None)
        if losing is not None:
            event = find_event(tag.event_name, check.api.modules, check.indexes)
            check.fail(
                f'The decorator in line {losing.line} replaces "{tag.method}", a handler of {event}, by something '
                "without its tag, so it is never called: put @subscribe above the decorator, or use functools.wraps in "
                "it",
                tag.applied,
                DROPPED,
            )


def _loses_tag(decorator: Expression, module: str) -> bool:
    """Return whether a decorator certainly returns something that does not have the attributes of the function."""
    called = decorator.callee if isinstance(decorator, CallExpr) else decorator
    if not isinstance(called, RefExpr):
        return False
    if called.fullname in _WRAPPING_OBJECTS:
        return True
    node = called.node
    if isinstance(node, TypeInfo):
        bases = [base for base in node.mro if base.fullname != "builtins.object"]
        makes_anything = any(base.fullname in _KEEPING_CLASSES or "__new__" in base.names for base in bases)
        return called is decorator and not makes_anything
    # A function of another module may come from mypy's cache, which has no bodies.
    if not isinstance(node, FuncDef) or called.fullname != f"{module}.{node.name}":
        return False
    if isinstance(decorator, CallExpr):
        inner = _returned_function(node)
        return inner is not None and _replaces(inner)
    return _replaces(node)


def _replaces(decorator: FuncDef) -> bool:
    """Return whether a decorator returns a function in its body that is not made to look like the decorated one."""
    copies = any(getattr(node, "name", "") in _COPYING for node in descend(decorator.body))
    return not copies and _returned_function(decorator) is not None


def _returned_function(function: FuncDef) -> FuncDef | None:
    """Return the undecorated function in the body of another one that this always returns."""
    own = descend(function.body, lambda child: not isinstance(child, FuncDef))
    returned = [node.expr for node in own if isinstance(node, ReturnStmt)]
    inner = [node for node in function.body.body if isinstance(node, FuncDef)]
    found = [each for each in inner if returned and all(getattr(value, "node", None) is each for value in returned)]
    return found[0] if len(found) == 1 else None


def _drops(info: TypeInfo, only: str | None = None) -> Iterator[_Drop]:
    """Yield the handlers that a class or its bases drop: all of them, or those with one name."""
    seen: dict[str, TypeInfo] = {}
    found: set[str] = set()
    for base in info.mro:
        for name in own_handlers(base):
            if name in seen and name not in found and only in (None, name) and name not in own_handlers(seen[name]):
                found.add(name)
                yield _Drop(name, seen[name], base)
        seen = {**dict.fromkeys((runtime_name(name, base) for name in base.names), base), **seen}


def _is_registered_explicitly(name: str, info: TypeInfo) -> bool:
    """Return whether some method reads `self.<name>`, as in `bus.subscribe(event, self.<name>)`."""
    read = f"{READS}.{name}"
    return any(read in each for base in info.mro for each in own_uses(base).values())


def _is_tagged_by_call(name: str, check: CheckedClass) -> bool:
    """Return whether `subscribe(event)(...)` is called somewhere in the module with something of that name."""
    tagged = (call.args for call in calls(check.api.cur_mod_node) if event_of(call.callee) is not None)
    return any(getattr(argument, "name", "") == name for arguments in tagged for argument in arguments)


def _own_override(check: CheckedClass, drop: _Drop) -> Context | None:
    """Return what a class defines instead of a handler; `None` if that may be a handler, or mypy refuses it itself."""
    name = source_name(drop.name, check.info)
    definition, body = check.info.names[name].node, check.info.defn.defs.body
    if isinstance(definition, Var):
        return next((each for each in body if _is_other_value(each, name, definition)), None)
    unconditional: Sequence[object] = body  # code under a condition, such as TYPE_CHECKING, may never run
    if definition not in unconditional or not is_plain(definition):
        return None
    return function_of(definition) if _is_accepted_by_mypy(check, drop, definition) else None


def _is_other_value(statement: Context, name: str, variable: Var) -> bool:
    """Return whether a statement assigns something that is not a handler, and that mypy accepts as the method."""
    if not isinstance(statement, AssignmentStmt):
        return False
    if not any(isinstance(target, NameExpr) and target.name == name for target in statement.lvalues):
        return False
    if isinstance(statement.rvalue, LambdaExpr):
        return len(statement.rvalue.arguments) == _PARAMETERS_OF_A_METHOD
    is_none = isinstance(statement.rvalue, RefExpr) and statement.rvalue.fullname == "builtins.None"
    return is_none and isinstance(get_proper_type(variable.type), AnyType)


def _is_accepted_by_mypy(check: CheckedClass, drop: _Drop, override: SymbolNode | None) -> bool:
    """Return whether mypy accepts a method in the place of a handler; if not, its own error is enough."""
    defined = definition_in(drop.owner, drop.name)
    function, handler = function_of(override), function_of(defined.node if defined else None)
    if function is None or (drop.hider is not check.info and override is not function):
        return False  # its decorators may make it a handler, and are unknown if it comes from the cache
    if handler is None:
        return True
    given: Type | None = _signature(check, drop.hider, function)
    if is_property(override):
        given = given.ret_type if isinstance(given, CallableType) else None
    return given is not None and is_subtype(given, _signature(check, drop.owner, handler), ignore_pos_arg_names=True)


def _signature(check: CheckedClass, owner: TypeInfo, function: FuncDef) -> Type:
    """Return the type of a method as seen on an object of the checked class."""
    signature = function.type or function_type(function, check.api.named_type("builtins.function"))
    seen = get_proper_type(map_type_from_supertype(signature, check.info, owner))
    return bind(seen) if isinstance(seen, CallableType) and not function.is_static else seen


def _message(check: CheckedClass, drop: _Drop) -> str:
    """Return which handler is dropped by which definition, and what to do."""
    events = [find_event(name, check.api.modules, check.indexes) for name in own_handlers(drop.owner)[drop.name]]
    tags = [f"@subscribe({each.constant})" for each in events if each.full_name]
    name = source_name(drop.name, drop.owner)
    handler = f'"{drop.owner.name}.{name}", a handler of {" and ".join(map(str, events))}'
    decorators = " and ".join(tags) or "@subscribe"
    if drop.hider is check.info:
        return (
            f'"{name}" overrides {handler}, without @subscribe, so it is never called: decorate the override with '
            f"{decorators} too, or give it another name"
        )
    return (
        f'In "{check.info.name}", "{drop.hider.name}.{name}" hides {handler}, and has no @subscribe, so neither '
        f'is called: override it in "{check.info.name}" with {decorators}, or give one of the two another name'
    )
