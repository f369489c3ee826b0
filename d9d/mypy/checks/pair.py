"""Checks that a bounded moment has its own two sides, and a block between them."""

from typing import Final

from mypy.checker import TypeChecker
from mypy.messages import format_type_distinctly
from mypy.nodes import CallExpr, Expression
from mypy.plugin import MethodContext, MethodSigContext
from mypy.subtypes import is_same_type
from mypy.types import FunctionLike

from d9d.mypy import errors
from d9d.mypy.checks import context
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName, name_event
from d9d.mypy.index import Indexes
from d9d.mypy.results import is_dropped

_PRE: Final = ".pre"
_POST: Final = ".post"


def check_sides(ctx: MethodSigContext, indexes: Indexes) -> FunctionLike:
    """Check that the two events in `bus.bounded(pre, post, context)` are the sides of one moment, then the context.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes any events.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and all(len(arguments) == 1 for arguments in ctx.args)):
        return ctx.default_signature
    mistake = _mistake(ctx.args[0][0], ctx.args[1][0], api, indexes)
    if mistake is None:
        return context.check_triggered(ctx, indexes)
    api.fail(mistake.message, ctx.context, code=mistake.code)
    return context.accept_anything(ctx, 1, 2)


def check_block(ctx: MethodContext, indexes: Indexes) -> None:
    """Check that the result of `bus.bounded` is used; on its own it triggers nothing.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api
    if isinstance(api, TypeChecker) and isinstance(ctx.context, CallExpr) and is_dropped(ctx.context, api):
        pre = ctx.args[0][0] if ctx.args[0] else None
        mistake = _no_block(name_event(pre, api.modules, indexes))
        api.fail(mistake.message, ctx.context, code=mistake.code)


def _mistake(pre: Expression, post: Expression, api: TypeChecker, indexes: Indexes) -> Mistake | None:
    """Return what keeps two events from being the sides of one moment, as far as their ids and contexts say."""
    first, second = (name_event(side, api.modules, indexes) for side in (pre, post))
    if first.id and second.id:
        if first.id == second.id:
            return _one_side_twice(first)
        if _other_side(first.id) != second.id and (_has_sides(first, api, indexes) or _has_sides(second, api, indexes)):
            return _not_one_moment(first, second)
        if first.id.endswith(_POST):
            return _swapped(first, second)
    carried_first, carried_second = (context.carried_by(side, api) for side in (pre, post))
    if carried_first and carried_second and not is_same_type(carried_first, carried_second):
        texts = format_type_distinctly(carried_first, carried_second, options=api.options)
        return _two_contexts(first, second, *texts)
    return None


def _other_side(event_id: str) -> str | None:
    """Return the id of the other side of a moment, which the grammar of ids tells; nothing for what is no side."""
    for side, other in ((_PRE, _POST), (_POST, _PRE)):
        if event_id.endswith(side):
            return event_id.removesuffix(side) + other
    return None


def _has_sides(event: EventName, api: TypeChecker, indexes: Indexes) -> bool:
    """Say whether it is known which event ends the moment that an event begins, or that none does.

    Ids of events without a catalogue need not follow its grammar: `user.upload.begun` may well have an end.
    """
    module = api.modules.get(event.full_name.rpartition(".")[0])
    is_declared = module is not None and indexes.beside(module.path).event(event.full_name) is not None
    return is_declared or _other_side(event.id or "") is not None


def _one_side_twice(event: EventName) -> Mistake:
    """Say that the block begins and ends with one event."""
    other = _other_side(event.id or "")
    remedy = f'pass the event of the id "{other}" as the other side' if other else "pass the event that ends the block"
    return Mistake(errors.PAIR, f"{event} is given as both sides of a moment: {remedy}")


def _swapped(first: EventName, second: EventName) -> Mistake:
    """Say that the moment would end before it begins."""
    return Mistake(errors.PAIR, f"{first} ends the moment that {second} begins: pass {second} first")


def _not_one_moment(first: EventName, second: EventName) -> Mistake:
    """Say that the two events are no pair, and what is."""
    sides = [
        f'the other side of {event} is "{other}"' if (other := _other_side(event.id or "")) else f"{event} has no sides"
        for event in (first, second)
    ]
    return Mistake(errors.PAIR, f"{first} and {second} are not the two sides of one moment: {sides[0]}, and {sides[1]}")


def _two_contexts(first: EventName, second: EventName, first_context: str, second_context: str) -> Mistake:
    """Say that no context fits both sides."""
    return Mistake(
        errors.PAIR,
        f"{first} carries {first_context} and {second} carries {second_context}: the two sides of one moment share "
        "one context",
    )


def _no_block(first: EventName) -> Mistake:
    """Say that neither side would be triggered."""
    return Mistake(
        errors.PAIR,
        f'"bounded" triggers neither {first} nor its other side until it is entered: write "with bus.bounded(...):" '
        'around the block, or use "trigger" where there is none',
    )
