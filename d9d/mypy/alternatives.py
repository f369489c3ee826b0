"""The events that an author may have meant, going by the context in the code."""

from typing import Final

from mypy.checker import TypeChecker
from mypy.types import Instance, Type, get_proper_type

from d9d.mypy.events import EventName
from d9d.mypy.index import Indexes, nearest

_MAX_ALTERNATIVES: Final = 3


def did_you_mean(event: EventName, given: Type, api: TypeChecker, indexes: Indexes) -> str:
    """Return the end of a message that asks for the events which carry a context, the nearest first.

    Args:
        event: The event that the code names.
        given: The type of the context that the code has for it.
        api: The checker of the file.
        indexes: The indexes of all catalogues.

    Returns:
        The question, to follow on a remedy; nothing where no event of a catalogue carries the context.
    """
    *others, last = _alternatives(event, given, api, indexes) or ("",)
    if not last:
        return ""
    return f". Did you mean {', '.join(others)} or {last}?" if others else f". Did you mean {last}?"


def _alternatives(event: EventName, given: Type, api: TypeChecker, indexes: Indexes) -> list[str]:
    """Return the constants of events that carry what the code has."""
    context = get_proper_type(given)
    if not isinstance(context, Instance):
        return []
    modules = (event.full_name.rpartition(".")[0], context.type.module_name)
    paths = [api.modules[name].path for name in modules if name in api.modules]
    found = nearest(event.full_name, context.type.fullname, map(indexes.beside, paths))
    return [name.rpartition(".")[2] for name in found[:_MAX_ALTERNATIVES]]
