"""Checks that a handler asks for every N-th step of an event that lies in a step."""

from typing import Final

from mypy.checker import TypeChecker
from mypy.nodes import CallExpr, Expression, IntExpr, NameExpr, UnaryExpr
from mypy.plugin import FunctionContext, MethodContext

from d9d.mypy.catalogues import Indexes
from d9d.mypy.diagnostics import FILTER
from d9d.mypy.events import lies_in_step, name_event
from d9d.mypy.syntax import argument

_EVERY: Final = "every"


def check_filter(ctx: FunctionContext | MethodContext, indexes: Indexes) -> None:
    """Check the filter in `subscribe(event, every=...)` or `bus.subscribe(event, handler, every=...)`.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    api, call = ctx.api, ctx.context
    if not (isinstance(api, TypeChecker) and isinstance(call, CallExpr) and ctx.args and ctx.args[0]):
        return
    every, event = argument(call, _EVERY), ctx.args[0][0]
    if every is None or _is_none(every):
        return
    named = name_event(event, api.modules, indexes)
    if lies_in_step(named.full_name, api.modules, indexes) is False:
        remedy = (
            "an event between step.pre and step.post"
            if named.is_declared
            else "create the event with in_step=True if its context has the stepper of the current step"
        )
        api.fail(
            f'"{_EVERY}" counts steps, but {named} does not lie in a step: remove "{_EVERY}", or '
            f"{'use ' if named.is_declared else ''}{remedy}",
            call,
            code=FILTER,
        )
    elif _is_below_one(every):
        api.fail(
            f'"{_EVERY}" is a number of steps, and must be at least 1: the bus refuses this one', every, code=FILTER
        )


def _is_below_one(every: Expression) -> bool:
    """Return whether a number is certainly too small."""
    if isinstance(every, UnaryExpr):
        return every.op == "-" and isinstance(every.expr, IntExpr)
    return isinstance(every, IntExpr) and every.value < 1


def _is_none(value: Expression) -> bool:
    return isinstance(value, NameExpr) and value.fullname == "builtins.None"
