"""Checks that handlers do not read attributes that only the handlers of later events assign."""

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

from d9d.mypy.class_facts import (
    ANYTHING,
    definition_in,
    has_handlers,
    inherited_handlers,
    own_assigned,
    own_handlers,
    own_mentioned,
    own_tags,
    runtime_name,
    source_name,
)
from d9d.mypy.control_flow import Guard, Guards, reached
from d9d.mypy.diagnostics import ORDER, CheckedClass
from d9d.mypy.events import EventName, find_moment
from d9d.mypy.handler_bodies import Listening
from d9d.mypy.syntax import assigning_methods, attribute_of_self, descend, methods, targets
from d9d_check.catalogues import Moment

_HARMLESS_DECORATORS: Final = frozenset({"typing.final", "typing_extensions.final"})
_HAS_ITEMS: Final = Guard(None, holds=True)
_IS_DUE: Final = Guard(None, holds=True)
_METACLASSES: Final = frozenset({"builtins.type", "abc.ABCMeta"})
_DYNAMIC: Final = frozenset({"__getattr__", "__getattribute__", "__setattr__"})


@dataclasses.dataclass(frozen=True)
class _Handling:
    """A handler and one of its events.

    Attributes:
        method: The name of the handler, as objects have it.
        spelling: The same, as its class spells it.
        event: The full name of the event.
        moment: When it happens.
    """

    method: str
    spelling: str
    event: str
    moment: Moment

    def __str__(self) -> str:
        return f'"{self.spelling}" of {EventName(self.event, self.moment.id)}'


def check_order(check: CheckedClass) -> None:
    """Check the handlers that a class itself defines.

    Args:
        check: The class.
    """
    info = check.info
    handlers = own_handlers(info)
    if not (handlers and _is_plain(info)):
        return
    for method in methods(info):
        reported: set[str] = set()
        skips = _skipped(info, method.name)
        name = runtime_name(method.name, info)
        for read, attribute, guards in _reads(method) if name in handlers else ():
            assigning = [] if attribute in reported else _assigning(check, runtime_name(attribute, info))
            handlings = _handlings(check, name) or []
            early = [
                each
                for each in handlings
                if _is_early(each, assigning, (*guards, _IS_DUE) if each.event in skips else guards)
            ]
            # A condition may distinguish the events of a handler.
            if early and (not guards or early == handlings) and not _is_set_elsewhere(check, attribute, assigning):
                reported.add(attribute)
                check.fail(
                    f'Handler {early[0]} reads "self.{attribute}", which is assigned only later in the run, by handler '
                    f'{" and ".join(map(str, assigning))}: assign it in "__init__" too, or in the handler of an '
                    "earlier event",
                    read,
                    ORDER,
                )


def _is_plain(info: TypeInfo) -> bool:
    """Return whether only the source of a class and its bases assigns attributes."""
    decorators = info.defn.decorators
    metaclass = info.metaclass_type.type.fullname if info.metaclass_type else "builtins.type"
    bases = [base for base in info.mro if base.fullname != "builtins.object"]
    return (
        not info.fallback_to_any
        and metaclass in _METACLASSES
        and all(isinstance(each, RefExpr) and each.fullname in _HARMLESS_DECORATORS for each in decorators)
        and not any(_DYNAMIC.intersection(base.names) or "dataclass" in base.metadata for base in bases)
    )


def _skipped(info: TypeInfo, method: str) -> set[str]:
    """Return the events of which a handler skips some triggers, because its subscription has a filter."""
    tags = [tag for tag in own_tags(info) if tag.method == method and tag.call is not None]
    return {tag.event_name for tag in tags if tag.call and not Listening(tag.event, tag.call).hears_every_trigger}


def _reads(method: FuncDef) -> Iterator[tuple[MemberExpr, str, Guards]]:
    """Yield the attributes of `self` that a method reads, and when, except where it handles a missing attribute."""
    assigned = {id(target) for target, _ in targets(method.body, augmented=False)}
    handled = {id(node) for block in descend(method.body) if _handles_errors(block) for node in descend(block)}
    repeated = {id(node) for part in descend(method.body) for block in _repeats(part) for node in descend(block)}
    for node, guards in reached(method.body):
        attribute = attribute_of_self(node)
        if isinstance(node, MemberExpr) and attribute is not None and id(node) not in assigned | handled:
            yield node, attribute, (*guards, _HAS_ITEMS) if id(node) in repeated else guards


def _handles_errors(node: Node) -> bool:
    """Return whether a statement expects errors inside it."""
    if isinstance(node, WithStmt):
        called = [each.callee if isinstance(each, CallExpr) else each for each in node.expr]
        return any(isinstance(each, RefExpr) and each.fullname == "contextlib.suppress" for each in called)
    return isinstance(node, TryStmt) and bool(node.handlers)


def _repeats(node: Node) -> list[Node]:
    """Return the parts of a node that run once per item, and so perhaps never."""
    if isinstance(node, ForStmt):
        return [node.body]
    return [node.left_expr] if isinstance(node, GeneratorExpr) else []


def _is_early(handling: _Handling, assigning: list[_Handling], guards: Guards) -> bool:
    """Return whether a handler certainly runs before others: in every run, or at least in its first step."""
    moments = [each.moment for each in assigning]
    is_sure = bool(moments) and handling.moment.always_before(moments)
    return is_sure and (not guards or (handling.moment.never_after(moments) and not any(map(_asks_self, guards))))


def _asks_self(guard: Guard) -> bool:
    """Return whether a condition may ask whether the attribute exists."""
    return guard.test is not None and any(attribute_of_self(node) is not None for node in descend(guard.test))


def _assigning(check: CheckedClass, attribute: str) -> list[_Handling]:
    """Return the handlers that assign an attribute; empty if anything else may assign it, or may call them."""
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
    """Return the methods of one class that may assign an attribute; "" if they are not known."""
    if not has_handlers(base):
        return [""] if definition_in(base, attribute) is not None else []
    assigned = own_assigned(base)
    return [*assigned.get(attribute, ()), *assigned.get(ANYTHING, ())]


def _handlings(check: CheckedClass, method: str) -> list[_Handling] | None:
    """Return the events of a handler; `None` if it is not a handler, or if one of its events is in no catalogue."""
    owner, events = inherited_handlers(check.info).get(method, (check.info, []))
    moments = [find_moment(event, check.api.modules, check.indexes) for event in events]
    handlings = [
        _Handling(method, source_name(method, owner), event, moment)
        for event, moment in zip(events, moments, strict=True)
        if moment
    ]
    return handlings if events and len(handlings) == len(events) else None


def _is_set_elsewhere(check: CheckedClass, attribute: str, assigning: list[_Handling]) -> bool:
    """Return whether code outside the class may assign an attribute, or code that has its name as a string."""
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
