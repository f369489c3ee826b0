"""Checks that all ranks reach the collectives in a handler."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mypy.nodes import CallExpr, Decorator, Expression, FuncDef, MemberExpr, NameExpr, Node, RefExpr
from mypy.types import Instance, get_proper_type

from d9d.mypy.control_flow import Guard, Guards, reached
from d9d.mypy.diagnostics import COLLECTIVE
from d9d.mypy.handler_bodies import HandlerBody, definition
from d9d.mypy.rank_values import side
from d9d.mypy.syntax import calls

_PREFIXES: Final = tuple(
    f"torch.distributed.distributed_c10d.{name}"
    for name in (
        "all_",
        "barrier",
        "broadcast",
        "gather",
        "monitored_barrier",
        "new_",
        "reduce",
        "scatter",
        "split_group",
    )
)
_CHECKPOINTS: Final = frozenset(
    f"torch.distributed.checkpoint.state_dict_{name}" for name in ("saver.save", "saver.async_save", "loader.load")
)
_PARTICIPANTS: Final = frozenset({"group", "process_group", "no_dist", "use_local_synchronization"})
"""Arguments that choose the participating ranks; a condition on the rank may then be right."""
_ALL: Final = frozenset({"None", "WORLD", "False"})
_WITHOUT_COLLECTIVES: Final = sys.stdlib_module_names | {"d9d", "torch"}


def check_collectives(body: HandlerBody) -> None:
    """Check that no collective in a handler is under a condition that holds only on some ranks.

    Args:
        body: The handler.
    """
    code = list(reached(body.function.body))
    alone = next((each.event for each in body.listenings if each.is_in_main_process_only), None)
    for node, guards in code:
        if isinstance(node, CallExpr) and (name := _collective(node)) and not _chooses_ranks(node):
            condition = _condition(guards, body)
            called = f'calls "{name.rpartition(".")[2]}"'
            if condition is not None and not _is_met(name, guards, code, body):
                event = body.listenings[0].event if body.listenings else None
                body.fail(
                    f"{body.subject(event)} {called} on some ranks only, because "
                    f"{_source(condition, body.api.path)} differs between ranks: these ranks wait forever for the "
                    "others. Call it on every rank, and keep under the condition only what one rank does alone, such "
                    "as printing or writing",
                    node,
                    COLLECTIVE,
                )
            elif alone is not None:
                body.fail(
                    f"{body.subject(alone)} {called}, but is subscribed with main_process_only=True: the main process "
                    "waits forever for the others. Subscribe it in every process, and test the rank where one process "
                    "does something alone, such as printing or writing",
                    node,
                    COLLECTIVE,
                )


def _collective(call: CallExpr) -> str:
    """Return the full name of the collective that is called; empty for any other call."""
    name = call.callee.fullname if isinstance(call.callee, RefExpr) else ""
    return name if name.startswith(_PREFIXES) or name in _CHECKPOINTS else ""


def _chooses_ranks(call: CallExpr) -> bool:
    """Return whether a call names the participating ranks: a group is recognised by its name or the argument's."""
    for argument, keyword in zip(call.args, call.arg_names, strict=True):
        name = _last_name(argument)
        if name not in _ALL and (keyword in _PARTICIPANTS or "group" in name or name.lstrip("_") == "pg"):
            return True
    return False


def _last_name(expression: Expression) -> str:
    named = expression.callee if isinstance(expression, CallExpr) else expression
    return named.name if isinstance(named, NameExpr | MemberExpr) else ""


def _condition(guards: Guards, body: HandlerBody) -> Expression | None:
    """Return the nearest condition that holds only on some ranks."""
    return next((guard.test for guard in reversed(guards) if _side(guard, body) is not None), None)


def _side(guard: Guard, body: HandlerBody) -> bool | None:
    return None if guard.test is None else side(guard.test, body.function, holds=guard.holds)


def _is_met(name: str, guards: Guards, code: Sequence[tuple[Node, Guards]], body: HandlerBody) -> bool:
    """Return whether the ranks on the other side of a condition may call the same collective."""
    here = {_side(guard, body) for guard in guards} - {None}
    elsewhere = [
        call
        for call, conditions in code
        if isinstance(call, CallExpr) and any(_side(guard, body) in {not side for side in here} for guard in conditions)
    ]
    with body.typed():
        return any(_may_call(name, call, body, set()) for call in elsewhere)


def _may_call(name: str, call: CallExpr, body: HandlerBody, seen: set[Node]) -> bool:
    """Return whether a call may call a collective, directly or through other functions."""
    callee = call.callee
    if not isinstance(callee, NameExpr | MemberExpr):
        return True
    node = definition(callee, body.api)
    function = node.func if isinstance(node, Decorator) else node
    if not isinstance(function, FuncDef):
        return callee.fullname == name or not _is_without_collectives(callee, body)
    if function in seen:
        return False
    seen.add(function)
    return any(_may_call(name, inner, body, seen) for inner in calls(function.body))


def _is_without_collectives(callee: NameExpr | MemberExpr, body: HandlerBody) -> bool:
    """Return whether a function or a method comes from a package that never calls the user's collectives."""
    origin = callee.fullname
    if not origin and isinstance(callee, MemberExpr):
        owner = get_proper_type(body.type_of(callee.expr))
        origin = owner.type.fullname if isinstance(owner, Instance) else ""
    return origin.partition(".")[0] in _WITHOUT_COLLECTIVES


def _source(expression: Expression, path: str) -> str:
    """Return the source of an expression; a description if the file is gone."""
    try:
        lines = Path(path).read_bytes().splitlines()[expression.line - 1 : expression.end_line]
    except OSError:
        return "a condition on the rank"
    lines[-1] = lines[-1][: expression.end_column]
    lines[0] = lines[0][expression.column :]
    return f'"{b" ".join(line.strip() for line in lines).decode(errors="replace")}"'
