"""Checks of single registrations: of what they register, and that they do it once."""

from typing import Final

from mypy.checker import TypeChecker
from mypy.messages import format_type
from mypy.nodes import Context, TypeInfo
from mypy.plugin import FunctionContext
from mypy.types import CallableType, Instance, NoneType, TupleType, TypeType, get_proper_type

from d9d.mypy import names
from d9d.mypy.catalogues import Indexes
from d9d.mypy.class_facts import CALLS_SUPER, SUBSCRIBES, inherited_handlers, own_registering, registering_statements
from d9d.mypy.diagnostics import TARGET, TWICE, UNTYPED_HANDLER, CheckedClass
from d9d.mypy.syntax import calls, function_of

_WITHOUT_HANDLERS: Final = frozenset(
    f"builtins.{name}" for name in ("bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
)
_TARGET: Final = 1
"""The position of the object in a call of `subscribe_annotated`."""


def check_target(ctx: FunctionContext, indexes: Indexes) -> None:  # noqa: ARG001 -- as the other checks of functions
    """Check that `subscribe_annotated` is called with an object that may have handlers.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and len(ctx.arg_types) > _TARGET and len(ctx.arg_types[_TARGET]) == 1):
        return
    kind = get_proper_type(ctx.arg_types[_TARGET][0])
    if isinstance(kind, TypeType) or (isinstance(kind, CallableType) and kind.is_type_obj()):
        api.fail(
            "subscribe_annotated is called with a class, and needs an object of it: create the object, or pass self",
            ctx.context,
            code=TARGET,
        )
    elif isinstance(kind, NoneType | TupleType) or (
        isinstance(kind, Instance) and kind.type.fullname in _WITHOUT_HANDLERS
    ):
        api.fail(
            f"subscribe_annotated subscribes nothing of {format_type(kind, api.options)}, which has no handlers: call "
            "it once for each object that has some",
            ctx.context,
            code=TARGET,
        )


def check_twice(check: CheckedClass) -> None:
    """Check that `register_events` of a class registers the object once, including what it calls of its base classes.

    Only statements that certainly run count.
    """
    info = check.info
    where = _second(info) if inherited_handlers(info) else None
    if where is not None:
        check.fail(
            f'"{info.name}" registers its handlers twice on one bus, which is refused: remove this call, because '
            "another one in register_events, perhaps of a base class, includes all handlers of the object",
            where,
            TWICE,
        )


def check_annotated(check: CheckedClass) -> None:
    """Check that `register_events` annotates its context where it subscribes single handlers.

    Without the annotation the bus is `Any`, and nothing checks that the handlers fit their events.
    """
    info = check.info
    owners = {names.BASE_TASK: "RegisterTaskEventsContext", names.MODEL_PROVIDER: "RegisterModelEventsContext"}
    expected = next((owners[base.fullname] for base in info.mro if base.fullname in owners), None)
    symbol = info.names.get(names.REGISTER_EVENTS)
    function = function_of(symbol.node if symbol is not None else None)
    if expected is None or function is None or function.type is not None or len(function.arguments) < _TARGET + 1:
        return
    subscribes = any(getattr(call.callee, "name", "") == "subscribe" for call in calls(function.body))
    if subscribes:
        check.fail(
            f'"{names.REGISTER_EVENTS}" of "{info.name}" has no annotation for its context, so the handlers that it '
            f'subscribes are not checked: annotate "{function.arguments[_TARGET].variable.name}" with "{expected}"',
            function,
            UNTYPED_HANDLER,
        )


def _second(info: TypeInfo) -> Context | None:
    """Return the statement of a class itself that registers the object for the second time."""
    count = 0
    for kind, statement in registering_statements(info):
        added = 1 if kind == SUBSCRIBES else _count(info, info.mro[1:])
        count += added
        if added and count > 1:
            return statement
    return None


def _count(info: TypeInfo, candidates: list[TypeInfo]) -> int:
    """Return how often the first `register_events` in some classes certainly registers the object."""
    for position, base in enumerate(candidates):
        if names.REGISTER_EVENTS in base.names:
            kinds = own_registering(base)
            return kinds.count(SUBSCRIBES) + kinds.count(CALLS_SUPER) * _count(info, candidates[position + 1 :])
    return 0
