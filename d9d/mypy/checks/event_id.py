"""Checks that an event has a well-formed id of its own, and a context type."""

import re
from typing import Final

from mypy.checker import TypeChecker
from mypy.nodes import ARG_STAR2, CallExpr, Context, Expression
from mypy.plugin import FunctionContext
from mypy.types import AnyType, Instance, LiteralType, Type, TypeOfAny, UnionType, get_proper_type

from d9d.mypy import errors, names
from d9d.mypy.errors import Mistake
from d9d.mypy.event_definitions import EventDefinition, event_definitions, literal_text
from d9d.mypy.events import EventName
from d9d.mypy.index import Indexes

SEGMENT: Final = "[a-z][a-z0-9_]*"
ID: Final = re.compile(rf"{SEGMENT}(\.{SEGMENT})+")
"""What the compiler accepts as the id of an event, which is not installed with mypy."""


def check_event(ctx: FunctionContext, indexes: Indexes) -> None:
    """Check the id and the context type of an event where it is made.

    Args:
        ctx: The call of `Event`.
        indexes: The indexes of all catalogues.
    """
    api, call = ctx.api, ctx.context
    if not (isinstance(api, TypeChecker) and isinstance(call, CallExpr)):
        return
    if indexes.beside(api.tree.path).describes(api.tree.fullname):
        return  # a catalogue is where its events are made
    definition = next((each for each in event_definitions(api.tree) if each.call is call), None)
    constant = definition.constant if definition else ""
    argument = _id_argument(ctx)
    mistake = None
    if argument is not None:
        mistake = _mistake_of_id(constant, *argument, api, indexes)
    if definition is not None:
        mistake = mistake or _mistake_of_definition(definition, api)
    if mistake is not None:
        api.fail(mistake.message, call, code=mistake.code)


def _id_argument(ctx: FunctionContext) -> tuple[Expression, Type] | None:
    """Return what is passed as the id, and its type; nothing where mypy refuses the call, or a mapping brings it."""
    position = ctx.callee_arg_names.index("id") if "id" in ctx.callee_arg_names else 0
    if len(ctx.args) <= position or len(ctx.args[position]) != 1 or ctx.arg_kinds[position] == [ARG_STAR2]:
        return None
    return ctx.args[position][0], ctx.arg_types[position][0]


def _mistake_of_id(
    constant: str, argument: Expression, kind: Type, api: TypeChecker, indexes: Indexes
) -> Mistake | None:
    event_id = _value(argument, kind)
    if event_id is None:
        return _no_literal(EventName(constant)) if _is_any_text(kind) else None
    event = EventName(constant, event_id)
    namespace, dot, _ = event_id.partition(".")
    if dot and namespace in indexes.owners:
        return _owned(event, namespace, indexes.owners[namespace])
    return None if ID.fullmatch(event_id) else _malformed(event, event_id, api.tree.fullname)


def _mistake_of_definition(definition: EventDefinition, api: TypeChecker) -> Mistake | None:
    event = EventName(definition.constant, definition.id)
    for other in event_definitions(api.tree):
        if other is definition:
            break
        if definition.repeats(other):
            return _repeated(event, EventName(other.constant), other.call)
    # Where mypy demands parameters of all generic types, it demands this one too.
    if not api.options.disallow_any_generics and _lacks_context(definition.declared):
        return _no_context(event)
    return None


def _value(argument: Expression, kind: Type) -> str | None:
    """Return the value of an expression, if the source tells it or mypy has inferred it."""
    proper = get_proper_type(kind)
    if isinstance(proper, Instance) and proper.last_known_value is not None:
        proper = proper.last_known_value
    if isinstance(proper, LiteralType) and isinstance(proper.value, str) and not proper.is_enum_literal():
        return proper.value
    return literal_text(argument)


def _is_any_text(kind: Type) -> bool:
    """Say whether an expression may have any text for its value: of a few literals each can be looked up."""
    proper = get_proper_type(kind)
    if isinstance(proper, Instance):
        return proper.type.fullname == "builtins.str"
    return isinstance(proper, AnyType) and proper.type_of_any != TypeOfAny.from_error


def _lacks_context(declared: Type | None) -> bool:
    """Say whether a type is, or may be, an event of whatever context, for want of a parameter."""
    proper = get_proper_type(declared)
    if isinstance(proper, UnionType):
        return any(map(_lacks_context, proper.items))
    if not (isinstance(proper, Instance) and proper.type.fullname == names.EVENT):
        return False
    context = get_proper_type(proper.args[0])
    return isinstance(context, AnyType) and context.type_of_any == TypeOfAny.from_omitted_generics


def _no_literal(event: EventName) -> Mistake:
    """Say that no checker knows the id."""
    return Mistake(
        errors.EVENT_ID,
        f"The id of {event} is no literal, so that nobody can verify it: write it out, in one definition for each "
        "event, and import that where the event is needed",
    )


def _malformed(event: EventName, event_id: str, module: str) -> Mistake:
    """Say that the id is not made as all ids are."""
    segments = re.findall(SEGMENT, re.sub(r"[^a-z0-9_.]", "_", event_id.lower())) or ["something"]
    if len(segments) == 1:
        segments.insert(0, module.rpartition(".")[2].lower().lstrip("_"))
    return Mistake(
        errors.EVENT_ID,
        f"The id of {event} is not made of lower-case segments joined by dots: write something like "
        f'"{".".join(segments)}"',
    )


def _owned(event: EventName, namespace: str, owner: str) -> Mistake:
    """Say that only a catalogue defines events whose ids begin so."""
    return Mistake(
        errors.EVENT_ID,
        f'The id of {event} is in the namespace "{namespace}", which is owned by the catalogue of {owner}: declare the '
        "event there, or begin the id with a name of your own",
    )


def _repeated(event: EventName, first: EventName, where: Context) -> Mistake:
    """Say that the id is taken."""
    remedy = f"use {first}" if first.full_name else "define the event once and use it twice"
    return Mistake(
        errors.EVENT_ID,
        f"The id of {event} is that of {first} in line {where.line} already, and a bus takes them for two "
        f"definitions of one moment: give it an id of its own, or {remedy}",
    )


def _no_context(event: EventName) -> Mistake:
    """Say that no handler of the event is checked."""
    return Mistake(
        errors.EVENT_ID,
        f'{event} has no context type, so that nothing checks its handlers: declare it as "Event[...]" of what they '
        "receive",
    )
