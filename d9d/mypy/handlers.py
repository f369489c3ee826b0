"""Which methods of a class are handlers, and of which events: read from its tree, or remembered where it has none."""

from collections.abc import Iterator, Mapping
from typing import Final

from mypy.nodes import AssignmentStmt, CallExpr, Decorator, Expression, NameExpr, OverloadedFuncDef, RefExpr, TypeInfo

from d9d.mypy import names
from d9d.mypy.facts import recall

_HANDLERS: Final = "handlers"


def own_handlers(info: TypeInfo) -> Mapping[str, list[str]]:
    """Return the subscribed methods that a class itself defines, each with the full names of its events.

    mypy's cache keeps no decorators, so what they say is kept with the class.

    Args:
        info: A class, from its source or from the cache.

    Returns:
        The events by the name of the method, in the order of definition; an event without a name is "".
    """
    return recall(info, _HANDLERS, lambda each: {name: events for name, events in _read(each) if events})


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


def events_of(decorators: list[Expression]) -> list[Expression]:
    """Return the events in the `@subscribe(event)` among some decorators, from the top down."""
    return [event for decorator in decorators if (event := event_of(decorator)) is not None]


def event_of(expression: Expression) -> Expression | None:
    """Return the event in `subscribe(event)`."""
    if isinstance(expression, CallExpr) and isinstance(expression.callee, RefExpr) and expression.args:
        return expression.args[0] if expression.callee.fullname == names.SUBSCRIBE else None
    return None


def _read(info: TypeInfo) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the events of what the class body defines."""
    for name, symbol in info.names.items():
        node = symbol.node
        parts = node.items if isinstance(node, OverloadedFuncDef) else [node]
        for part in parts:
            if isinstance(part, Decorator):
                yield name, [_name(event) for event in events_of(part.original_decorators)]
    for statement in info.defn.defs.body:
        # A class may keep the result of `subscribe(event)(function)` as its method.
        if isinstance(statement, AssignmentStmt) and isinstance(statement.rvalue, CallExpr):
            event = event_of(statement.rvalue.callee)
            for target in statement.lvalues:
                if event is not None and isinstance(target, NameExpr):
                    yield target.name, [_name(event)]


def _name(event: Expression) -> str:
    return event.fullname if isinstance(event, RefExpr) else ""
