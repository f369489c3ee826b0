"""Which methods of a class are handlers, and of which events: read from its tree, or remembered where it has none."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from mypy.nodes import AssignmentStmt, CallExpr, Decorator, Expression, FuncDef, NameExpr, RefExpr, TypeInfo

from d9d.mypy import facts, names
from d9d.mypy.facts import Fact, recall
from d9d.mypy.methods import own_definitions

_HANDLERS: Final = "handlers"


@dataclasses.dataclass(frozen=True)
class Tag:
    """One `subscribe(event)` in the body of a class.

    Attributes:
        method: The name of the method that becomes a handler.
        event: What is passed as the event.
        applied: The expression that makes the method a handler: the decorator, or the call.
        function: The method, where it is written as one.
    """

    method: str
    event: Expression
    applied: Expression
    function: FuncDef | None

    @property
    def event_name(self) -> str:
        """The full name of the event; nothing where it has none."""
        return self.event.fullname if isinstance(self.event, RefExpr) else ""


def own_tags(info: TypeInfo) -> list[Tag]:
    """Return what the body of a class subscribes, in the order of definition; nothing where the class has no body."""
    return sorted([*_decorated(info), *_assigned(info)], key=lambda tag: tag.applied.line)


def own_handlers(info: TypeInfo) -> Mapping[str, list[str]]:
    """Return the subscribed methods that a class itself defines, each with the full names of its events.

    mypy's cache keeps no decorators, so what they say is kept with the class.

    Args:
        info: A class, from its source or from the cache.

    Returns:
        The events by the name of the method, in the order of definition; an event without a name is "".
    """
    return recall(info, _HANDLERS, _read)


def inherited_handlers(info: TypeInfo) -> dict[str, tuple[TypeInfo, list[str]]]:
    """Return the subscribed methods that an object of the class has, each with its class and its events.

    What a nearer class defines hides what a farther one does, subscribed or not.
    """
    found: dict[str, tuple[TypeInfo, list[str]]] = {}
    for base in reversed(info.mro):
        handlers = own_handlers(base)
        found = {name: value for name, value in found.items() if name not in base.names}
        found |= {name: (base, events) for name, events in handlers.items()}
    return found


def modules_behind(info: TypeInfo) -> set[str]:
    """Return the modules that decide on the handlers of a class: an edit of one may make another class wrong."""
    modules: set[str] = set()
    for base in info.mro:
        if facts.KEY in base.metadata:
            modules.add(base.module_name)
            modules.update(name.rpartition(".")[0] for names in own_handlers(base).values() for name in names)
    return modules - {""}


def events_of(decorators: list[Expression]) -> list[Expression]:
    """Return the events in the `@subscribe(event)` among some decorators, from the top down."""
    return [event for decorator in decorators if (event := event_of(decorator)) is not None]


def event_of(expression: Expression) -> Expression | None:
    """Return the event in `subscribe(event)`."""
    if isinstance(expression, CallExpr) and isinstance(expression.callee, RefExpr) and expression.args:
        return expression.args[0] if expression.callee.fullname == names.SUBSCRIBE else None
    return None


def _decorated(info: TypeInfo) -> Iterator[Tag]:
    for name, definition in own_definitions(info):
        if isinstance(definition, Decorator):
            for decorator in definition.original_decorators:
                if (event := event_of(decorator)) is not None:
                    yield Tag(name, event, decorator, definition.func)


def _assigned(info: TypeInfo) -> Iterator[Tag]:
    """Yield where a class keeps the result of `subscribe(event)(function)` as its method."""
    for statement in info.defn.defs.body:
        if isinstance(statement, AssignmentStmt) and isinstance(statement.rvalue, CallExpr):
            event = event_of(statement.rvalue.callee)
            for target in statement.lvalues:
                if event is not None and isinstance(target, NameExpr):
                    yield Tag(target.name, event, statement.rvalue, None)


def _read(info: TypeInfo) -> Fact:
    handlers: Fact = {}
    for tag in own_tags(info):
        handlers.setdefault(tag.method, []).append(tag.event_name)
    return handlers
