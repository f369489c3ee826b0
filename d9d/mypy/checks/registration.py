"""Checks that `register_events` annotates its context."""

from typing import Final

from mypy.nodes import TypeInfo

from d9d.mypy import names
from d9d.mypy.diagnostics import UNTYPED_HANDLER, CheckedClass
from d9d.mypy.syntax import calls, function_of

_CONTEXTS: Final = {
    names.BASE_TASK: "RegisterTaskEventsContext",
    names.MODEL_PROVIDER: "RegisterModelEventsContext",
}
_NUM_PARAMETERS: Final = 2


def is_registering(info: TypeInfo) -> bool:
    """Return whether a class is a task or a model provider, whose `register_events` a loop calls."""
    return any(base.fullname in _CONTEXTS for base in info.mro)


def check_annotated(check: CheckedClass) -> None:
    """Check that `register_events` annotates its context where it subscribes single handlers.

    Without the annotation the bus is `Any`, and nothing checks that the handlers fit their events.
    """
    info = check.info
    expected = next(_CONTEXTS[base.fullname] for base in info.mro if base.fullname in _CONTEXTS)
    symbol = info.names.get(names.REGISTER_EVENTS)
    function = None if symbol is None else function_of(symbol.node)
    if function is None or function.type is not None or len(function.arguments) < _NUM_PARAMETERS:
        return
    subscribes = any(getattr(call.callee, "name", "") == "subscribe" for call in calls(function.body))
    if subscribes:
        check.fail(
            f'"{names.REGISTER_EVENTS}" of "{info.name}" has no annotation for its context, so the handlers that it '
            f'subscribes are not checked: annotate "{function.arguments[1].variable.name}" with "{expected}"',
            function,
            UNTYPED_HANDLER,
        )
