"""Checks that an emitter is called."""

from mypy.checker import TypeChecker
from mypy.nodes import CallExpr
from mypy.plugin import MethodContext

from d9d.mypy import errors
from d9d.mypy.events import name_event
from d9d.mypy.index import Indexes
from d9d.mypy.results import is_dropped


def check_use(ctx: MethodContext, indexes: Indexes) -> None:
    """Check that the result of `bus.emitter` is used; on its own it triggers nothing.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api
    if isinstance(api, TypeChecker) and isinstance(ctx.context, CallExpr) and is_dropped(ctx.context, api):
        event = name_event(ctx.args[0][0] if ctx.args[0] else None, api.modules, indexes)
        api.fail(
            f'"emitter" triggers {event} when its result is called, which nothing does: keep it, and call it with the '
            'context where the event happens, or use "trigger"',
            ctx.context,
            code=errors.EMITTER,
        )
