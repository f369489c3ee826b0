"""Checks that handlers do not read what only the handlers of later events assign."""

import dataclasses
from collections.abc import Iterator
from typing import Final

from mypy.nodes import (
    CallExpr,
    ClassDef,
    ForStmt,
    FuncDef,
    GeneratorExpr,
    MemberExpr,
    Node,
    RefExpr,
    StrExpr,
    TryStmt,
    TypeInfo,
    Var,
    WithStmt,
)

from d9d.mypy import errors
from d9d.mypy.assignments import assigning_methods, attribute_of_self, methods, targets
from d9d.mypy.attributes import ANYTHING, is_remembered, own_assigned, own_mentioned
from d9d.mypy.class_check import ClassCheck
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName
from d9d.mypy.guards import Guard, Guards, reached
from d9d.mypy.handlers import inherited_handlers, own_handlers
from d9d.mypy.lifecycle import Moment
from d9d.mypy.tree import descend

_HARMLESS_DECORATORS: Final = frozenset({"typing.final", "typing_extensions.final"})
_HAS_ITEMS: Final = Guard(None, holds=True)
_METACLASSES: Final = frozenset({"builtins.type", "abc.ABCMeta"})
_DYNAMIC: Final = frozenset({"__getattr__", "__getattribute__", "__setattr__"})


@dataclasses.dataclass(frozen=True)
class _Handling:
    """A handler and one of its events.

    Attributes:
        method: The name of the handler.
        event: The full name of the event.
        moment: When it happens.
    """

    method: str
    event: str
    moment: Moment

    def __str__(self) -> str:
        return f'"{self.method}" of {EventName(self.event, self.moment.id)}'


def check_order(check: ClassCheck) -> None:
    """Check the handlers that a class itself defines.

    Args:
        check: The class.
    """
    info = check.info
    handlers = own_handlers(info)
    if not (handlers and check.api.errors.is_error_code_enabled(errors.ORDER) and _is_plain(info)):
        return
    for method in methods(info):
        reported: set[str] = set()
        for read, attribute, guards in _reads(method) if method.name in handlers else ():
            assigning = [] if attribute in reported else _assigning(check, attribute)
            handlings = _handlings(check, method.name) or []
            early = [each for each in handlings if _is_early(each, assigning, guards)]
            # A condition may well tell one event of a handler from another.
            if early and (not guards or early == handlings) and not _is_set_elsewhere(check, attribute, assigning):
                reported.add(attribute)
                check.fail(_comes_later(early[0], attribute, assigning), read)


def _is_plain(info: TypeInfo) -> bool:
    """Say whether attributes get values only where the source of a class and of its bases says so."""
    decorators = info.defn.decorators
    metaclass = info.metaclass_type.type.fullname if info.metaclass_type else "builtins.type"
    bases = [base for base in info.mro if base.fullname != "builtins.object"]
    return (
        not info.fallback_to_any
        and metaclass in _METACLASSES
        and all(isinstance(each, RefExpr) and each.fullname in _HARMLESS_DECORATORS for each in decorators)
        and not any(_DYNAMIC.intersection(base.names) or "dataclass" in base.metadata for base in bases)
    )


def _reads(method: FuncDef) -> Iterator[tuple[MemberExpr, str, Guards]]:
    """Yield what a method reads of `self`, and when: not where it would bear that there is nothing to read."""
    assigned = {id(target) for target, _ in targets(method.body, augmented=False)}
    passed_over = {id(node) for block in descend(method.body) if _bears(block) for node in descend(block)}
    repeated = {id(node) for part in descend(method.body) for block in _repeats(part) for node in descend(block)}
    for node, guards in reached(method.body):
        attribute = attribute_of_self(node)
        if isinstance(node, MemberExpr) and attribute is not None and id(node) not in assigned | passed_over:
            yield node, attribute, (*guards, _HAS_ITEMS) if id(node) in repeated else guards


def _bears(node: Node) -> bool:
    """Say whether errors inside a statement may be meant to happen."""
    if isinstance(node, WithStmt):
        called = [each.callee if isinstance(each, CallExpr) else each for each in node.expr]
        return any(isinstance(each, RefExpr) and each.fullname == "contextlib.suppress" for each in called)
    return isinstance(node, TryStmt) and bool(node.handlers)


def _repeats(node: Node) -> list[Node]:
    """Return what runs for each item of something, and so perhaps not at all."""
    if isinstance(node, ForStmt):
        return [node.body]
    return [node.left_expr] if isinstance(node, GeneratorExpr) else []


def _is_early(handling: _Handling, assigning: list[_Handling], guards: Guards) -> bool:
    """Say whether a handler surely comes before others: in each run, or else in the first step of each."""
    moments = [each.moment for each in assigning]
    is_sure = bool(moments) and handling.moment.always_before(moments)
    return is_sure and (not guards or (handling.moment.never_after(moments) and not any(map(_asks_self, guards))))


def _asks_self(guard: Guard) -> bool:
    """Say whether a condition may be about whether there is something to read."""
    return guard.test is not None and any(attribute_of_self(node) is not None for node in descend(guard.test))


def _assigning(check: ClassCheck, attribute: str) -> list[_Handling]:
    """Return the handlers that assign an attribute; nothing if anything else may do so too, or may call them."""
    found: list[_Handling] = []
    for base in check.info.mro:
        for method in _assigning_methods(base, attribute):
            handlings = _handlings(check, method)
            if handlings is None:
                return []
            found += [each for each in handlings if each not in found]
    mentioned = {name for base in check.info.mro for name in own_mentioned(base)}
    return [] if any(each.method in mentioned for each in found) else found


def _assigning_methods(base: TypeInfo, attribute: str) -> list[str]:
    """Return the methods of one class that may assign an attribute; "" where they are not known."""
    if not is_remembered(base):
        return [""] if attribute in base.names else []
    assigned = own_assigned(base)
    return [*assigned.get(attribute, ()), *assigned.get(ANYTHING, ())]


def _handlings(check: ClassCheck, method: str) -> list[_Handling] | None:
    """Return the events of a handler; nothing if it is none, or if one of its events is in no catalogue."""
    _, events = inherited_handlers(check.info).get(method, (None, []))
    moments = [Moment.of(event, check.api.modules, check.indexes) for event in events]
    handlings = [_Handling(method, event, moment) for event, moment in zip(events, moments, strict=True) if moment]
    return handlings if events and len(handlings) == len(events) else None


def _is_set_elsewhere(check: ClassCheck, attribute: str, assigning: list[_Handling]) -> bool:
    """Say whether an attribute may get a value from outside of the class, or by its name."""
    symbol, code = check.info.get(attribute), list(descend(check.api.cur_mod_node))
    if symbol is not None and not isinstance(symbol.node, Var):
        return True  # such as a property
    if any(isinstance(node, StrExpr) and node.value == attribute for node in descend(check.info.defn)):
        return True  # such as in hasattr(self, "attribute")
    derived = [node.info for node in code if isinstance(node, ClassDef) and check.info in node.info.mro[1:]]
    if any(attribute in assigning_methods(info) for info in derived):
        return True
    called = {each.method for each in assigning}
    assigned = {id(target) for target, _ in targets(check.api.cur_mod_node, nested=True)}
    outside = [node for node in code if isinstance(node, MemberExpr) and attribute_of_self(node) is None]
    return any(node.name in called or (node.name == attribute and id(node) in assigned) for node in outside)


def _comes_later(handling: _Handling, attribute: str, assigning: list[_Handling]) -> Mistake:
    """Say that there is nothing to read yet."""
    return Mistake(
        errors.ORDER,
        f'Handler {handling} reads "self.{attribute}", which is assigned only later in the run, by handler '
        f'{" and ".join(map(str, assigning))}: assign it in "__init__" too, or in the handler of an earlier event',
    )
