"""Checks that all ranks reach the collectives in a handler."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mypy.nodes import CallExpr, Decorator, Expression, FuncDef, MemberExpr, NameExpr, Node, RefExpr
from mypy.types import Instance, get_proper_type

from d9d.mypy import errors, ranks
from d9d.mypy.bodies import HandlerBody, definition
from d9d.mypy.errors import Mistake
from d9d.mypy.guards import Guard, Guards, reached
from d9d.mypy.tree import calls

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
"""Arguments that choose the ranks that take part: a condition on them may then be right."""
_ALL: Final = frozenset({"None", "WORLD", "False"})
_WITHOUT_COLLECTIVES: Final = sys.stdlib_module_names | {"d9d", "torch"}


def check_collectives(body: HandlerBody) -> None:
    """Check that no collective of a handler stands under a condition that only some ranks fulfil.

    Args:
        body: The handler.
    """
    if not body.is_asked(errors.COLLECTIVE):
        return
    code = list(reached(body.function.body))
    for node, guards in code:
        if isinstance(node, CallExpr) and (name := _collective(node)) and not _chooses_ranks(node):
            condition = _condition(guards, body)
            if condition is not None and not _meets(name, guards, code, body):
                event = body.events[0] if body.events else None
                source = _source(condition, body.api.path)
                body.fail(_some_ranks(body.subject(event), name, source), node)


def _collective(call: CallExpr) -> str:
    """Return the full name of the collective that is called; nothing for another call."""
    name = call.callee.fullname if isinstance(call.callee, RefExpr) else ""
    return name if name.startswith(_PREFIXES) or name in _CHECKPOINTS else ""


def _chooses_ranks(call: CallExpr) -> bool:
    """Say whether the ranks that take part are given: a group is known by the argument's name, or its own."""
    for argument, keyword in zip(call.args, call.arg_names, strict=True):
        name = _last_name(argument)
        if name not in _ALL and (keyword in _PARTICIPANTS or "group" in name or name.lstrip("_") == "pg"):
            return True
    return False


def _last_name(expression: Expression) -> str:
    named = expression.callee if isinstance(expression, CallExpr) else expression
    return named.name if isinstance(named, NameExpr | MemberExpr) else ""


def _condition(guards: Guards, body: HandlerBody) -> Expression | None:
    """Return the nearest condition that only some ranks fulfil."""
    return next((guard.test for guard in reversed(guards) if _side(guard, body) is not None), None)


def _side(guard: Guard, body: HandlerBody) -> bool | None:
    return None if guard.test is None else ranks.side(guard.test, body.function, holds=guard.holds)


def _meets(name: str, guards: Guards, code: Sequence[tuple[Node, Guards]], body: HandlerBody) -> bool:
    """Say whether the ranks on the other side of a condition may call the same collective."""
    here = {_side(guard, body) for guard in guards} - {None}
    elsewhere = [
        call
        for call, conditions in code
        if isinstance(call, CallExpr) and any(_side(guard, body) in {not side for side in here} for guard in conditions)
    ]
    with body.typed():
        return any(_may_call(name, call, body, set()) for call in elsewhere)


def _may_call(name: str, call: CallExpr, body: HandlerBody, seen: set[Node]) -> bool:
    """Say whether a collective may be called by a call: by itself, or somewhere below."""
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
    """Say whether a function, or the class of a method, comes from where nothing calls the user's collectives."""
    origin = callee.fullname
    if not origin and isinstance(callee, MemberExpr):
        owner = get_proper_type(body.type_of(callee.expr))
        origin = owner.type.fullname if isinstance(owner, Instance) else ""
    return origin.partition(".")[0] in _WITHOUT_COLLECTIVES


def _source(expression: Expression, path: str) -> str:
    """Return how an expression is written; what is said of it where the file has gone."""
    try:
        lines = Path(path).read_bytes().splitlines()[expression.line - 1 : expression.end_line]
    except OSError:
        return "a condition on the rank"
    lines[-1] = lines[-1][: expression.end_column]
    lines[0] = lines[0][expression.column :]
    return f'"{b" ".join(line.strip() for line in lines).decode(errors="replace")}"'


def _some_ranks(subject: str, name: str, condition: str) -> Mistake:
    """Say that some ranks wait for others that never come."""
    return Mistake(
        errors.COLLECTIVE,
        f'{subject} calls "{name.rpartition(".")[2]}" on some ranks only, since {condition} is not the same on all: '
        "they wait forever for the others. Call it on every rank, and put under the condition only what one rank does "
        "alone, such as to print or to write",
    )
