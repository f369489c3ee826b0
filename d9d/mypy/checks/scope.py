"""Checks that a task handles events of the loop that runs it: that loop never triggers those of the other."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from mypy.nodes import (
    Argument,
    AssignmentStmt,
    CallExpr,
    Context,
    Expression,
    FuncDef,
    MemberExpr,
    NameExpr,
    RefExpr,
    SymbolNode,
    TypeInfo,
)
from mypy.types import Instance, Type, get_proper_type

from d9d.mypy import names
from d9d.mypy.catalogues import Index
from d9d.mypy.class_facts import (
    ANYTHING,
    READS,
    SUBSCRIBES,
    SUBSCRIBES_ELSEWHERE,
    inherited_handlers,
    own_handlers,
    own_tags,
    own_uses,
    reachable_methods,
    runtime_name,
)
from d9d.mypy.diagnostics import SCOPE, CheckedClass
from d9d.mypy.events import EventName
from d9d.mypy.syntax import calls, descend, function_of, own_definitions

_TASKS: Final = {"train": names.TRAIN_TASK, "inference": names.INFERENCE_TASK}
"""The kind of task that a loop runs, by the namespace of the loop's events."""
_LOOPS: Final = {"train": "training", "inference": "inference"}
"""How messages name a loop."""


@dataclasses.dataclass(frozen=True)
class _LoopEvent:
    """An event that one loop of the framework triggers.

    Attributes:
        name: The event as its author knows it.
        entry: What the catalogue says of it.
        index: The index of the catalogue.
    """

    name: EventName
    entry: Mapping[str, object]
    index: Index

    @property
    def loop(self) -> str:
        return str(self.entry["id"]).partition(".")[0]

    @property
    def twin(self) -> str:
        """The constant of the same moment in the other loop; empty if there is no such moment."""
        _, _, moment = str(self.entry["id"]).partition(".")
        twins = {f"{loop}.{moment}" for loop in _LOOPS if loop != self.loop}
        found = (name for name, entry in self.index.events.items() if entry.get("id") in twins)
        return next(found, "").rpartition(".")[2]


def check_scope(check: CheckedClass) -> None:
    """Check the events that a task of one loop handles: with its own methods, inherited ones, and explicitly."""
    own_loop = _loop_of(check.info)
    if own_loop is None:
        return
    elsewhere = _handlers_of_another_bus(check.info)
    for tag in own_tags(check.info):
        is_elsewhere = elsewhere & {ANYTHING, runtime_name(tag.method, check.info)}
        event = None if is_elsewhere else _loop_event(check, tag.event_name)
        if event is not None and event.loop != own_loop and not _is_typed_for_another(tag.function, event):
            _report(check, f'Handler "{tag.method}" of {event.name}', event, tag.applied)
    for subject, event in () if ANYTHING in elsewhere else _inherited(check, own_loop):
        _report(check, subject, event, check.info.defn)
    for call, handler, event in _subscribed(check):
        if event.loop != own_loop:
            name = getattr(handler, "name", "")
            _report(check, f'Handler "{name}" of {event.name}' if name else f"Handler of {event.name}", event, call)


def _report(check: CheckedClass, subject: str, event: _LoopEvent, where: Context) -> None:
    """Report that the loop that runs the task never triggers the event."""
    remedy = (
        f"Did you mean {event.twin}?"
        if event.twin
        else f"Handle it in a subclass of {_TASKS[event.loop].rpartition('.')[2]}"
    )
    runner = next(words for loop, words in _LOOPS.items() if loop != event.loop)
    check.fail(
        f'{subject} is never called: the {runner} loop runs "{check.info.name}", and only the {_LOOPS[event.loop]} '
        f"loop triggers this event. {remedy}",
        where,
        SCOPE,
    )


def _loop_of(info: TypeInfo) -> str | None:
    """Return the loop that runs a task; `None` for a class that no loop or both may run."""
    loops = [loop for loop, task in _TASKS.items() if any(base.fullname == task for base in info.mro)]
    return loops[0] if len(loops) == 1 and not info.fallback_to_any else None


def _loop_event(check: CheckedClass, full_name: str) -> _LoopEvent | None:
    """Return an event of the framework's own loops; events of users' catalogues may be triggered anywhere."""
    declared = check.indexes.declaration(full_name, check.api.modules)
    if declared is None or not full_name.startswith(f"{names.CATALOGUE}."):
        return None
    index, entry = declared
    if str(entry.get("id")).partition(".")[0] not in _LOOPS:
        return None
    return _LoopEvent(EventName(full_name, str(entry["id"])), entry, index)


def _handlers_of_another_bus(info: TypeInfo) -> set[str]:
    """Return the handlers that a task may subscribe on the bus of another loop, which it runs itself.

    `register_events` and what it calls subscribe on the bus of the loop that runs the task.
    """
    found = set[str]()
    own = reachable_methods(info, names.REGISTER_EVENTS)
    handlers = inherited_handlers(info)
    for base in info.mro:
        for method, uses in own_uses(base).items():
            if SUBSCRIBES_ELSEWHERE in uses or (SUBSCRIBES in uses and method not in own):
                found.add(ANYTHING)
            if method not in own:
                found.update(name for name in handlers if f"{READS}.{name}" in uses)
    return found


def _inherited(check: CheckedClass, own_loop: str) -> Iterator[tuple[str, _LoopEvent]]:
    """Yield handlers that a task inherits from a class that is no task, unless a base class that is a task has them."""
    tasks = [base for base in check.info.mro[1:] if _loop_of(base) is not None]
    for name, (owner, full_names) in inherited_handlers(check.info).items():
        if owner is check.info or any(owner in task.mro for task in tasks) or _serves_both(check, owner):
            continue
        for full_name in full_names:
            event = _loop_event(check, full_name)
            if event is not None and event.loop != own_loop:
                yield f'Handler "{name}" of {event.name}, inherited from "{owner.name}",', event


def _serves_both(check: CheckedClass, owner: TypeInfo) -> bool:
    """Return whether handlers belong to a mixin that handles events of both loops, and so is meant for both tasks."""
    mixins = [base for base in check.info.mro[1:] if owner in base.mro and _loop_of(base) is None]
    for mixin in mixins:
        full_names = [name for base in mixin.mro for events in own_handlers(base).values() for name in events]
        loops = {event.loop for name in full_names if (event := _loop_event(check, name)) is not None}
        if len(loops) > 1:
            return True
    return False


def _subscribed(check: CheckedClass) -> Iterator[tuple[CallExpr, Expression, _LoopEvent]]:
    """Yield the calls of `ctx.event_bus.subscribe(event, handler)` in the methods of a class."""
    functions = [function_of(definition) for _, definition in own_definitions(check.info)]
    for function in filter(None, functions):
        for call in calls(function):
            if not _is_on_own_bus(call.callee, function) or not call.args:
                continue
            arguments = dict(zip(call.arg_names, call.args, strict=True))
            event = arguments.get("event", call.args[0])
            found = _loop_event(check, event.fullname) if isinstance(event, RefExpr) else None
            if found is not None:
                yield call, arguments.get("handler", call.args[-1]), found


def _is_on_own_bus(callee: Expression, function: FuncDef) -> bool:
    """Return whether `subscribe` is called on the bus of the loop that runs the task, and not on another bus."""
    if not (isinstance(callee, MemberExpr) and callee.name == "subscribe"):
        return False
    if not isinstance(callee.expr, NameExpr):
        return _is_own_bus(callee.expr, function)
    values = _assigned(callee.expr.node, function)
    return bool(values) and all(_is_own_bus(value, function) for value in values)


def _is_own_bus(bus: Expression, function: FuncDef) -> bool:
    """Return whether an expression is the `event_bus` of the context that the method receives."""
    if not (isinstance(bus, MemberExpr) and bus.name == "event_bus" and isinstance(bus.expr, NameExpr)):
        return False
    return any(bus.expr.node is argument.variable for argument in _contexts(function))


def _assigned(variable: SymbolNode | None, function: FuncDef) -> list[Expression]:
    """Return the values that a method assigns to a local variable."""
    return [
        node.rvalue
        for node in descend(function)
        if isinstance(node, AssignmentStmt)
        and any(isinstance(target, NameExpr) and target.node is variable for target in node.lvalues)
    ]


def _contexts(function: FuncDef) -> list[Argument]:
    """Return the parameters that receive a context with the bus of the loop."""
    if function.name == names.REGISTER_EVENTS:
        return function.arguments[1:]
    return [each for each in function.arguments if _full_name(each.variable.type) == names.REGISTER_TASK_EVENTS_CONTEXT]


def _is_typed_for_another(function: FuncDef | None, event: _LoopEvent) -> bool:
    """Return whether a handler takes another context of the framework, which `d9d-handler` reports."""
    contexts = [_full_name(each.variable.type) for each in function.arguments[1:2]] if function is not None else []
    return any(name.startswith(f"{names.CATALOGUE}.") and name != event.entry.get("context") for name in contexts)


def _full_name(kind: Type | None) -> str:
    proper = get_proper_type(kind)
    return proper.type.fullname if isinstance(proper, Instance) else ""
