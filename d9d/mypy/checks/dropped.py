"""Checks that what overrides a handler is a handler as well: only what is subscribed itself is called."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from mypy.nodes import AssignmentStmt, Context, FuncDef, LambdaExpr, NameExpr, RefExpr, SymbolNode, TypeInfo, Var
from mypy.subtypes import is_subtype
from mypy.typeops import function_type, map_type_from_supertype
from mypy.types import AnyType, CallableType, Type, get_proper_type

from d9d.mypy import errors, uses
from d9d.mypy.callables import bind
from d9d.mypy.class_check import ClassCheck
from d9d.mypy.errors import Mistake
from d9d.mypy.events import find_event
from d9d.mypy.handlers import event_of, own_handlers
from d9d.mypy.methods import function_of, is_plain, is_property
from d9d.mypy.tree import calls

_PARAMETERS_OF_A_METHOD: Final = 2


@dataclasses.dataclass(frozen=True)
class _Drop:
    """A handler that an object does not have, since a nearer class defines something else of its name.

    Attributes:
        name: The name of both.
        hider: The nearest class that defines the name, and no handler.
        owner: The nearest class that defines the handler.
    """

    name: str
    hider: TypeInfo
    owner: TypeInfo


def check_dropped(check: ClassCheck) -> None:
    """Check that no method of a class, own or inherited, takes the place of a handler without being one.

    A mistake is told once, at the class that makes it: not at those that inherit it.
    """
    info = check.info
    for drop in _drops(info):
        inherited = any(drop.owner is other.owner for base in info.mro[1:] for other in _drops(base, drop.name))
        if inherited or _is_registered_explicitly(drop.name, info) or _is_tagged_by_call(drop.name, check):
            continue
        if drop.hider is not info:
            if _is_told_by_us(check, drop, drop.hider.names[drop.name].node):
                check.fail(_hidden(check, drop), info.defn)
        elif (override := _own_override(check, drop)) is not None:
            check.fail(_dropped(check, drop), override)


def _drops(info: TypeInfo, only: str | None = None) -> Iterator[_Drop]:
    """Yield the handlers that a class drops, be it by itself or as its bases do: all of them, or those of one name."""
    seen: dict[str, TypeInfo] = {}
    told: set[str] = set()
    for base in info.mro:
        for name in own_handlers(base):
            if name in seen and name not in told and only in (None, name) and name not in own_handlers(seen[name]):
                told.add(name)
                yield _Drop(name, seen[name], base)
        seen = {**dict.fromkeys(base.names, base), **seen}


def _is_registered_explicitly(name: str, info: TypeInfo) -> bool:
    """Say whether some method takes `self.<name>` as a value, as `bus.subscribe(event, self.<name>)` does."""
    read = f"{uses.READS}.{name}"
    return any(read in each for base in info.mro for each in uses.own_uses(base).values())


def _is_tagged_by_call(name: str, check: ClassCheck) -> bool:
    """Say whether `subscribe(event)(...)` is called somewhere in the module with something of that name."""
    tagged = (call.args for call in calls(check.api.cur_mod_node) if event_of(call.callee) is not None)
    return any(getattr(argument, "name", "") == name for arguments in tagged for argument in arguments)


def _own_override(check: ClassCheck, drop: _Drop) -> Context | None:
    """Return what a class defines in a handler's place; nothing if that may be a handler, or mypy refuses it itself."""
    definition, body = check.info.names[drop.name].node, check.info.defn.defs.body
    if isinstance(definition, Var):
        return next((each for each in body if _is_other_value(each, drop.name, definition)), None)
    unconditional: Sequence[object] = body  # what stands under a condition, such as TYPE_CHECKING, may never be
    if definition not in unconditional or not is_plain(definition):
        return None
    return function_of(definition) if _is_told_by_us(check, drop, definition) else None


def _is_other_value(statement: Context, name: str, variable: Var) -> bool:
    """Say whether a statement assigns what is no handler, and mypy takes it for a method of the same type."""
    if not isinstance(statement, AssignmentStmt):
        return False
    if not any(isinstance(target, NameExpr) and target.name == name for target in statement.lvalues):
        return False
    if isinstance(statement.rvalue, LambdaExpr):
        return len(statement.rvalue.arguments) == _PARAMETERS_OF_A_METHOD
    is_none = isinstance(statement.rvalue, RefExpr) and statement.rvalue.fullname == "builtins.None"
    return is_none and isinstance(get_proper_type(variable.type), AnyType)


def _is_told_by_us(check: ClassCheck, drop: _Drop, override: SymbolNode | None) -> bool:
    """Say whether mypy accepts a method in the place of a handler; its own error would be about the same mistake."""
    function, handler = function_of(override), function_of(drop.owner.names[drop.name].node)
    if function is None or (drop.hider is not check.info and override is not function):
        return False  # what decorates it may make a handler of it, and is unknown where it comes from the cache
    if handler is None:
        return True
    given: Type | None = _signature(check, drop.hider, function)
    if is_property(override):
        given = given.ret_type if isinstance(given, CallableType) else None
    return given is not None and is_subtype(given, _signature(check, drop.owner, handler), ignore_pos_arg_names=True)


def _signature(check: ClassCheck, owner: TypeInfo, function: FuncDef) -> Type:
    """Return the type of a method as an object of the checked class has it."""
    signature = function.type or function_type(function, check.api.named_type("builtins.function"))
    seen = get_proper_type(map_type_from_supertype(signature, check.info, owner))
    return bind(seen) if isinstance(seen, CallableType) and not function.is_static else seen


def _events(check: ClassCheck, drop: _Drop) -> tuple[str, str]:
    """Return the events of the dropped handler, and what to decorate with to listen to them."""
    events = [find_event(name, check.api.modules, check.indexes) for name in own_handlers(drop.owner)[drop.name]]
    decorators = [f"@subscribe({each.constant})" for each in events if each.full_name]
    return " and ".join(map(str, events)), " and ".join(decorators) or "@subscribe"


def _dropped(check: ClassCheck, drop: _Drop) -> Mistake:
    """Say that the override of a handler is none."""
    events, decorators = _events(check, drop)
    return Mistake(
        errors.DROPPED,
        f'"{drop.name}" overrides "{drop.owner.name}.{drop.name}", a handler of {events}, without @subscribe: it would '
        f"never be called. Decorate the override with {decorators} too, or give it another name",
    )


def _hidden(check: ClassCheck, drop: _Drop) -> Mistake:
    """Say that what one base class defines takes the place of a handler of another."""
    events, decorators = _events(check, drop)
    return Mistake(
        errors.DROPPED,
        f'In "{check.info.name}", "{drop.hider.name}.{drop.name}" hides "{drop.owner.name}.{drop.name}", a handler of '
        f"{events}, without @subscribe: neither would be called. Override it with {decorators}, or give one of the two "
        "another name",
    )
