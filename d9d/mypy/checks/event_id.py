"""Checks that an event has a valid, unique id and a context type."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Final

from mypy.checker import TypeChecker
from mypy.nodes import (
    ARG_STAR2,
    AssignmentExpr,
    AssignmentStmt,
    Block,
    CallExpr,
    Expression,
    FuncDef,
    IndexExpr,
    LambdaExpr,
    ListExpr,
    MemberExpr,
    MypyFile,
    NameExpr,
    Node,
    OpExpr,
    RefExpr,
    StrExpr,
    TypeAlias,
    Var,
)
from mypy.plugin import FunctionContext
from mypy.types import AnyType, Instance, LiteralType, Type, TypeOfAny, UnionType, get_proper_type

from d9d.mypy import names
from d9d.mypy.catalogues import Indexes
from d9d.mypy.diagnostics import EVENT_ID
from d9d.mypy.events import EventName
from d9d.mypy.syntax import children

_SEGMENT: Final = "[a-z][a-z0-9_]*"
ID: Final = re.compile(rf"{_SEGMENT}(\.{_SEGMENT})+")
"""The ids that the catalogue compiler accepts. It need not be installed, so the pattern is repeated here."""
_FAMILY: Final = re.compile(rf"({_SEGMENT}\.){{2,}}[a-z0-9_]*")
"""How the ids of a family of events begin."""


def check_event(ctx: FunctionContext, indexes: Indexes) -> None:
    """Check the id and the context type of an event where it is created.

    Args:
        ctx: The call of `Event`.
        indexes: The indexes of all catalogues.
    """
    api, call = ctx.api, ctx.context
    if not (isinstance(api, TypeChecker) and isinstance(call, CallExpr)):
        return
    if indexes.next_to(api.tree.path).describes(api.tree.fullname):
        return  # the module of a catalogue
    definition = next((each for each in _definitions(api.tree) if each.call is call), None)
    if definition is not None and definition.function is not None and _is_family(call, indexes):
        return
    message = _wrong_id(definition.constant if definition else "", ctx, api, indexes)
    if message is None and definition is not None:
        message = _repeated_id(definition, api.tree)
    # Where mypy requires type arguments for all generic types, it requires this one too.
    if message is None and definition is not None and not api.options.disallow_any_generics:
        message = _missing_context(definition)
    if message is not None:
        api.fail(message, call, code=EVENT_ID)


def _wrong_id(constant: str, ctx: FunctionContext, api: TypeChecker, indexes: Indexes) -> str | None:
    """Return why an id cannot be right; `None` if mypy refuses the call itself, or a mapping contains the id."""
    position = ctx.callee_arg_names.index("id") if "id" in ctx.callee_arg_names else 0
    if len(ctx.args) <= position or len(ctx.args[position]) != 1 or ctx.arg_kinds[position] == [ARG_STAR2]:
        return None
    argument, kind = ctx.args[position][0], ctx.arg_types[position][0]
    event_id = _value(argument, kind)
    if event_id is None:
        return (
            f"The id of {EventName(constant)} is not a literal, so it cannot be verified: write it as a string literal "
            "in one definition of the event, and import that definition where the event is used"
            if _is_any_text(kind)
            else None
        )
    event = EventName(constant, event_id)
    namespace, dot, _ = event_id.partition(".")
    if dot and namespace in indexes.owners:
        return (
            f'The id of {event} is in the namespace "{namespace}", which belongs to the catalogue of '
            f"{indexes.owners[namespace]}: declare the event in that catalogue, or start the id with another name"
        )
    if not ID.fullmatch(event_id):
        return (
            f"The id of {event} must consist of two or more lowercase segments joined by dots: write something like "
            f'"{_suggestion(event_id, api.tree.fullname)}"'
        )
    return None


def _is_family(call: CallExpr, indexes: Indexes) -> bool:
    """Return whether a function makes one of many events, whose ids begin with a literal name outside of catalogues."""
    named = dict(zip(call.arg_names, call.args, strict=True))
    match named.get("id"):
        case CallExpr(callee=MemberExpr(name="join"), args=[ListExpr(items=[StrExpr(value=start), *_])]):
            namespace = start.partition(".")[0]
            return _FAMILY.fullmatch(start) is not None and namespace not in indexes.owners
    return False


def _repeated_id(definition: "_Definition", module: MypyFile) -> str | None:
    """Return which earlier definition in the module has the same id."""
    event = EventName(definition.constant, definition.id)
    for other in _definitions(module):
        if other is definition:
            break
        if definition.repeats(other):
            first = EventName(other.constant)
            remedy = f"use {first}" if first.full_name else "define the event once and use it in both places"
            return (
                f"The id of {event} is already the id of {first} in line {other.call.line}, and a bus takes both "
                f"for one event: give this event another id, or {remedy}"
            )
    return None


def _missing_context(definition: "_Definition") -> str | None:
    """Return that the handlers of an event are not checked, if its declared type has no context."""
    if not _lacks_context(definition.declared):
        return None
    return (
        f"{EventName(definition.constant, definition.id)} has no context type, so its handlers are not checked: "
        'declare it as "Event[...]" with the type of its context'
    )


def _suggestion(event_id: str, module: str) -> str:
    """Return a valid id that resembles a wrong one."""
    segments = re.findall(_SEGMENT, re.sub(r"[^a-z0-9_.]", "_", event_id.lower())) or ["something"]
    if len(segments) == 1:
        segments.insert(0, module.rpartition(".")[2].lower().lstrip("_"))
    return ".".join(segments)


def _value(argument: Expression, kind: Type) -> str | None:
    """Return the value of an expression, if it is in the source or mypy has inferred it."""
    proper = get_proper_type(kind)
    if isinstance(proper, Instance) and proper.last_known_value is not None:
        proper = proper.last_known_value
    if isinstance(proper, LiteralType) and isinstance(proper.value, str) and not proper.is_enum_literal():
        return proper.value
    return _literal_text(argument)


def _is_any_text(kind: Type) -> bool:
    """Return whether an expression may be any string, and not only one of some literals."""
    proper = get_proper_type(kind)
    if isinstance(proper, Instance):
        return proper.type.fullname == "builtins.str"
    return isinstance(proper, AnyType) and proper.type_of_any != TypeOfAny.from_error


def _lacks_context(declared: Type | None) -> bool:
    """Return whether a type is, or may be, an event without a type argument."""
    proper = get_proper_type(declared)
    if isinstance(proper, UnionType):
        return any(map(_lacks_context, proper.items))
    if not (isinstance(proper, Instance) and proper.type.fullname == names.EVENT):
        return False
    context = get_proper_type(proper.args[0])
    return isinstance(context, AnyType) and context.type_of_any == TypeOfAny.from_omitted_generics


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Definition:
    """A call of `Event` in the source.

    Attributes:
        call: The call.
        constant: The name that it is assigned to; empty if there is none.
        declared: The declared type of that name.
        id: Its id, if it is in the source.
        function: The innermost function around it; `None` if it is called when the module is imported.
    """

    call: CallExpr
    constant: str
    declared: Type | None
    id: str | None
    function: Node | None

    def repeats(self, other: "_Definition") -> bool:
        """Return whether a program that runs this definition has run another one with the same id.

        Definitions of one name are alternatives, and each function may have its own bus.
        """
        is_alternative = bool(self.constant) and self.constant == other.constant
        has_run = other.function is None or other.function is self.function
        return self.id is not None and self.id == other.id and has_run and not is_alternative


@functools.lru_cache(maxsize=1)
def _definitions(module: MypyFile) -> tuple[_Definition, ...]:
    """Return the events that a module defines, in the order of the source. Its names must be bound."""
    return tuple(_below(module, None))


def _literal_text(expression: Expression) -> str | None:
    """Return the constant text of an expression: a literal, a final name of one, or a concatenation of these."""
    if isinstance(expression, StrExpr):
        return expression.value
    if isinstance(expression, RefExpr) and isinstance(expression.node, Var):
        value = expression.node.final_value
        return value if isinstance(value, str) else None
    if isinstance(expression, OpExpr) and expression.op == "+":
        left, right = _literal_text(expression.left), _literal_text(expression.right)
        return None if left is None or right is None else left + right
    return None


def _below(node: Node, function: Node | None) -> Iterator[_Definition]:
    if isinstance(node, Block) and node.is_unreachable:
        return
    inner = node if isinstance(node, FuncDef | LambdaExpr) else function
    for child in children(node):
        if isinstance(child, CallExpr) and _is_event(child.callee):
            constant, declared = _assigned(node, child)
            yield _Definition(call=child, constant=constant, declared=declared, id=_id(child), function=inner)
        yield from _below(child, inner)


def _id(call: CallExpr) -> str | None:
    named = (argument for name, argument in zip(call.arg_names, call.args, strict=True) if name == "id")
    return next(map(_literal_text, named), None)


def _assigned(parent: Node, call: CallExpr) -> tuple[str, Type | None]:
    """Return the name that a call is directly assigned to, and the declared type of that name."""
    targets: list[Expression] = []
    if isinstance(parent, AssignmentStmt):
        targets = list(parent.lvalues)
    elif isinstance(parent, AssignmentExpr) and parent.value is call:
        targets = [parent.target]
    constant = next((target.name for target in targets if isinstance(target, NameExpr)), "")
    return constant, parent.type if isinstance(parent, AssignmentStmt) else None


def _is_event(callee: Expression) -> bool:
    """Return whether an expression is the class `Event`, with or without a type argument."""
    reference = callee.base if isinstance(callee, IndexExpr) else callee
    if not isinstance(reference, RefExpr):
        return False
    if isinstance(reference.node, TypeAlias):
        target = get_proper_type(reference.node.target)
        return isinstance(target, Instance) and target.type.fullname == names.EVENT
    return reference.fullname == names.EVENT
