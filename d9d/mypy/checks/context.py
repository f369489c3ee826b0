"""Checks that an event is triggered with the context that it carries."""

from mypy.checker import TypeChecker
from mypy.messages import format_type, format_type_distinctly
from mypy.nodes import Expression
from mypy.plugin import MethodSigContext
from mypy.subtypes import is_subtype
from mypy.types import CallableType, FunctionLike, Instance, Type, get_proper_type

from d9d.mypy import errors, names
from d9d.mypy.alternatives import did_you_mean
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName, name_event
from d9d.mypy.index import Indexes


def check_triggered(ctx: MethodSigContext, indexes: Indexes) -> FunctionLike:
    """Check the context in `bus.trigger(event, context)`, and in what else takes an event first and a context last.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes any context.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and all(len(arguments) == 1 for arguments in ctx.args)):
        return ctx.default_signature
    event, context = ctx.args[0][0], ctx.args[-1][0]
    carried = carried_by(event, api)
    if carried is None:
        return ctx.default_signature
    given = api.get_expression_type(context, carried)
    if is_subtype(given, carried, options=api.options):
        return ctx.default_signature
    mistake = _mistake(name_event(event, api.modules, indexes), given, carried, api, indexes)
    api.fail(mistake.message, ctx.context, code=mistake.code)
    return accept_anything(ctx, len(ctx.args) - 1)


def carried_by(event: Expression, api: TypeChecker) -> Type | None:
    """Return the type of the context that an event carries; nothing for what is no event, or not known to be one."""
    kind = get_proper_type(api.get_expression_type(event))
    return kind.args[0] if isinstance(kind, Instance) and kind.type.fullname == names.EVENT else None


def accept_anything(ctx: MethodSigContext, *positions: int) -> CallableType:
    """Return the declared signature with some parameters that take whatever the call passes."""
    arg_types = list(ctx.default_signature.arg_types)
    for position in positions:
        arg_types[position] = ctx.api.named_generic_type("builtins.object", [])
    return ctx.default_signature.copy_modified(arg_types=arg_types)


def _mistake(event: EventName, given: Type, carried: Type, api: TypeChecker, indexes: Indexes) -> Mistake:
    """Return what to say of a context of another type."""
    given_text, expected = format_type_distinctly(given, carried, options=api.options)
    proper = get_proper_type(given)
    if isinstance(proper, CallableType) and proper.is_type_obj() and is_subtype(proper.ret_type, carried):
        return _class_in_place_of_object(event, format_type(carried, api.options))
    return _wrong_context(event, given_text, expected, did_you_mean(event, given, api, indexes))


def _wrong_context(event: EventName, given: str, expected: str, question: str) -> Mistake:
    """Say that the handlers of the event would receive what they do not expect."""
    return Mistake(
        errors.CONTEXT, f"{event} is triggered with {given}, and carries {expected}: pass one of these{question}"
    )


def _class_in_place_of_object(event: EventName, expected: str) -> Mistake:
    """Say that the class itself was passed."""
    return Mistake(
        errors.CONTEXT,
        f"{event} is triggered with the class {expected} itself, and carries an object of it: call it with its fields",
    )
