"""Checks that an event is triggered with the context that it carries."""

from collections.abc import Sequence

from mypy.checker import TypeChecker
from mypy.messages import format_type, format_type_distinctly
from mypy.nodes import CallExpr, Expression, MemberExpr
from mypy.plugin import MethodSigContext
from mypy.subtypes import is_subtype
from mypy.types import CallableType, FunctionLike, Instance, Type, get_proper_type

from d9d.mypy.catalogues import Indexes
from d9d.mypy.diagnostics import CONTEXT
from d9d.mypy.events import EventName, carried_by_each, did_you_mean, name_event
from d9d.mypy.signatures import accept, accept_all
from d9d.mypy.syntax import identity, targets


def check_triggered(ctx: MethodSigContext, indexes: Indexes) -> FunctionLike:
    """Check the context in `bus.trigger(event, context)`, and in other calls with an event first and a context last.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes any context.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and all(len(arguments) == 1 for arguments in ctx.args)):
        return ctx.default_signature
    event = ctx.args[0][0]
    return _check(ctx, event, carried_by_each(event, api), api, indexes)


def check_emitted(ctx: MethodSigContext, indexes: Indexes) -> FunctionLike:
    """Check the context in `emitter.call(context)`.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes any context.
    """
    api, emitter = ctx.api, get_proper_type(ctx.type)
    if not (isinstance(api, TypeChecker) and isinstance(emitter, Instance) and emitter.args):
        return ctx.default_signature
    if [len(arguments) for arguments in ctx.args] != [1]:
        return ctx.default_signature
    return _check(ctx, _event_of_emitter(ctx.context, api), [emitter.args[0]], api, indexes)


def _event_of_emitter(call: object, api: TypeChecker) -> Expression | None:
    """Return the event in the one `bus.emitter(event)` of the module that makes the emitter of a call."""
    if not (isinstance(call, CallExpr) and isinstance(call.callee, MemberExpr)):
        return None
    emitter = call.callee.expr
    values: list[Expression | None] = [emitter]
    if (key := identity(emitter)) is not None:
        values = [value for target, value in targets(api.tree, nested=True) if identity(target) == key]
    match values:
        case [CallExpr(callee=MemberExpr(name="emitter"), args=[event])]:
            return event
    return None


def _check(
    ctx: MethodSigContext, event: Expression | None, contexts: Sequence[Type], api: TypeChecker, indexes: Indexes
) -> FunctionLike:
    """Report a context of another type than the event carries; return the signature for mypy to use.

    Args:
        ctx: The call.
        event: What the code names as the event.
        contexts: What each event carries that this may be.
        api: The checker of the module.
        indexes: The indexes of all catalogues.
    """
    last = len(ctx.args) - 1
    for carried in contexts:
        given = api.get_expression_type(ctx.args[last][0], carried)
        if not is_subtype(given, carried, options=api.options):
            message = _wrong_context(name_event(event, api.modules, indexes), given, carried, api, indexes)
            api.fail(message, ctx.context, code=CONTEXT)
            return accept(ctx, last) if len(contexts) == 1 else accept_all(ctx)
    if len(contexts) > 1:
        return accept_all(ctx)
    # From a dictionary or an empty tuple alone, mypy would infer another type than the event carries.
    return accept(ctx, last, kind=contexts[0]) if contexts else ctx.default_signature


def _wrong_context(event: EventName, given: Type, carried: Type, api: TypeChecker, indexes: Indexes) -> str:
    proper = get_proper_type(given)
    if isinstance(proper, CallableType) and proper.is_type_obj() and is_subtype(proper.ret_type, carried):
        return (
            f"{event} is triggered with the class {format_type(carried, api.options)} itself, not with an object of "
            "it: call the class with its fields"
        )
    given_text, expected = format_type_distinctly(given, carried, options=api.options)
    return (
        f"{event} is triggered with {given_text}, but carries {expected}: pass an object of type "
        f"{expected}{did_you_mean(event, given, api, indexes)}"
    )
