"""Checks that an emitter is called."""

from typing import Final

from mypy.plugin import MethodContext

from d9d.mypy.catalogues import Indexes
from d9d.mypy.diagnostics import EMITTER
from d9d.mypy.events import event_of_unused

_PASSIVE: Final = frozenset({"handlers"})
"""Attributes of an emitter that trigger nothing."""


def check_emitter(ctx: MethodContext, indexes: Indexes) -> None:
    """Check that the result of `bus.emitter(event)` is used for more than to look at its handlers.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    event = event_of_unused(ctx, indexes, passive=_PASSIVE)
    if event is not None:
        ctx.api.fail(
            f'This emitter never triggers {event}, because nothing calls its method "call": keep the emitter, and call '
            '"emitter.call(context)" where the event happens, or use "bus.trigger"',
            ctx.context,
            code=EMITTER,
        )
