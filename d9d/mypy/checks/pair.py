"""Checks that `bounded` gets the two events of one block, and has a block."""

from typing import Final

from mypy.checker import TypeChecker
from mypy.messages import format_type_distinctly
from mypy.nodes import Expression
from mypy.plugin import MethodContext, MethodSigContext
from mypy.subtypes import is_same_type
from mypy.types import FunctionLike

from d9d.mypy.catalogues import Indexes
from d9d.mypy.checks import context
from d9d.mypy.diagnostics import PAIR
from d9d.mypy.events import EventName, carried_by, event_of_unused, name_event
from d9d.mypy.signatures import accept

_PRE: Final = ".pre"
_POST: Final = ".post"


def check_sides(ctx: MethodSigContext, indexes: Indexes) -> FunctionLike:
    """Check the two events in `bus.bounded(pre, post, context)`, and then the context.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes any second event and any context.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and all(len(arguments) == 1 for arguments in ctx.args)):
        return ctx.default_signature
    message = _wrong_sides(ctx.args[0][0], ctx.args[1][0], api, indexes)
    if message is None:
        return context.check_triggered(ctx, indexes)
    api.fail(message, ctx.context, code=PAIR)
    return accept(ctx, 1, 2)


def check_block(ctx: MethodContext, indexes: Indexes) -> None:
    """Check that the result of `bus.bounded` is used; on its own it triggers nothing.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    event = event_of_unused(ctx, indexes)
    if event is not None:
        ctx.api.fail(
            f'{event} and its counterpart are never triggered here: "bounded" triggers them only in a "with" '
            'statement. Write "with bus.bounded(...):" around the block, or use "trigger" if there is no block',
            ctx.context,
            code=PAIR,
        )


def _wrong_sides(pre: Expression, post: Expression, api: TypeChecker, indexes: Indexes) -> str | None:
    """Return why two events cannot begin and end one block, as far as their ids and contexts say."""
    first, second = (name_event(side, api.modules, indexes) for side in (pre, post))
    if first.id and second.id:
        if first.id == second.id:
            other = _counterpart(first.id)
            remedy = (
                f'the event with the id "{other}" as the other one'
                if other
                else "the event that ends the block as the second"
            )
            return f'"bounded" is given {first} twice: pass {remedy}'
        if _counterpart(first.id) != second.id and (_has_counterpart(first) or _has_counterpart(second)):
            counterparts = ", and ".join(_describe_counterpart(event) for event in (first, second))
            return (
                f"{first} and {second} do not begin and end the same block: {counterparts}. Pass two events whose ids "
                'differ only in ".pre" and ".post"'
            )
        if first.id.endswith(_POST):
            return f"{first} ends the block that {second} begins: pass {second} first"
    carried_first, carried_second = (carried_by(side, api) for side in (pre, post))
    if carried_first and carried_second and not is_same_type(carried_first, carried_second):
        texts = format_type_distinctly(carried_first, carried_second, options=api.options)
        return (
            f'{first} carries {texts[0]}, but {second} carries {texts[1]}: "bounded" passes one context to the '
            "handlers of both, so use two events that carry the same context"
        )
    return None


def _counterpart(event_id: str) -> str | None:
    """Return the id of the other event of a block, which follows from the id; `None` for an event of no block."""
    for side, other in ((_PRE, _POST), (_POST, _PRE)):
        if event_id.endswith(side):
            return event_id.removesuffix(side) + other
    return None


def _has_counterpart(event: EventName) -> bool:
    """Return whether the event of the other side is known, or is known not to exist.

    The ids of events without a catalogue need not end in `.pre` and `.post`: `user.upload.begun` may well have an end.
    """
    return event.is_declared or _counterpart(event.id or "") is not None


def _describe_counterpart(event: EventName) -> str:
    other = _counterpart(event.id or "")
    return f'the counterpart of {event} is "{other}"' if other else f"{event} has no counterpart"
