"""What is known of the event that an expression names: its id, which events resemble it, and when it happens."""

import ast
import dataclasses
import difflib
import functools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from mypy.checker import TypeChecker
from mypy.nodes import Expression, MypyFile, RefExpr
from mypy.types import Instance, Type, UnionType, get_proper_type

from d9d.mypy import names
from d9d.mypy.catalogues import Indexes

_MAX_ALTERNATIVES: Final = 3


@dataclasses.dataclass(frozen=True)
class EventName:
    """An event as the author of the code knows it; `str()` gives it as messages print it.

    Attributes:
        full_name: Module and constant; only the name of a local variable; empty if the event has no name.
        id: The id of the event, if it is known.
        is_declared: Whether a catalogue declares the event.
    """

    full_name: str = ""
    id: str | None = None
    is_declared: bool = False

    @property
    def constant(self) -> str:
        """The name of the constant alone, if the event has one."""
        return self.full_name.rpartition(".")[2]

    def __str__(self) -> str:
        constant = self.constant or "an event"
        return constant if self.id is None else f'{constant} ("{self.id}")'


def name_event(expression: Expression | None, modules: Mapping[str, MypyFile], indexes: Indexes) -> EventName:
    """Find the constant and the id of the event that an expression stands for.

    Args:
        expression: What the code passes as the event, if that is known.
        modules: All modules of this run.
        indexes: The indexes of all catalogues.
    """
    if not isinstance(expression, RefExpr):
        return EventName()
    # The full name of an imported constant is that of its definition; an attribute of an object has none.
    return find_event(expression.fullname or getattr(expression, "name", ""), modules, indexes)


def find_event(full_name: str, modules: Mapping[str, MypyFile], indexes: Indexes) -> EventName:
    """Find the id of an event, in the index next to its module or else in the source of its module.

    Args:
        full_name: Module and constant.
        modules: All modules of this run.
        indexes: The indexes of all catalogues.
    """
    module, _, constant = full_name.rpartition(".")
    if module not in modules:
        return EventName(full_name)
    declared = indexes.declaration(full_name, modules)
    event_id = declared[1].get("id") if declared is not None else None
    if isinstance(event_id, str):
        return EventName(full_name, event_id, is_declared=True)
    return EventName(full_name, _id_in_source(modules[module].path, constant), is_declared=declared is not None)


def constant_of_id(event_id: str, modules: Mapping[str, MypyFile], indexes: Indexes) -> str | None:
    """Return the constant of the event with an id, if a catalogue of this run declares one.

    Args:
        event_id: The id.
        modules: All modules of this run.
        indexes: The indexes of all catalogues.
    """
    for module in modules.values():
        for name, entry in indexes.next_to(module.path).events.items():
            if entry.get("id") == event_id:
                return name.rpartition(".")[2]
    return None


def lies_in_step(full_name: str, modules: Mapping[str, MypyFile], indexes: Indexes) -> bool | None:
    """Return whether an event lies in a step, by the index of its catalogue or else by the source of its module.

    Args:
        full_name: Module and constant.
        modules: All modules of this run.
        indexes: The indexes of all catalogues.

    Returns:
        `None` if that is not known.
    """
    declared = indexes.declaration(full_name, modules)
    if declared is not None:
        known = declared[1].get("in_step")
        return known if isinstance(known, bool) else None
    module, _, constant = full_name.rpartition(".")
    if module not in modules or _id_in_source(modules[module].path, constant) is None:
        return None
    return constant in _in_steps(Path(modules[module].path).read_bytes())


def carried_by_each(event: Expression, api: TypeChecker) -> list[Type]:
    """Return the types of the contexts of all events that an expression may be, as where a loop goes over several.

    Args:
        event: What the code passes as the event.
        api: The checker of the module.

    Returns:
        One type for each; none if the expression is not known to be an event.
    """
    kind = get_proper_type(api.get_expression_type(event))
    kinds = [get_proper_type(each) for each in kind.items] if isinstance(kind, UnionType) else [kind]
    events = [each for each in kinds if isinstance(each, Instance) and each.type.fullname == names.EVENT]
    return [each.args[0] for each in events] if len(events) == len(kinds) else []


def did_you_mean(event: EventName, given: Type, api: TypeChecker, indexes: Indexes) -> str:
    """Return a question about the events that carry the context in the code, for the end of a message.

    Args:
        event: The event that the code names.
        given: The type of the context in the code.
        api: The checker of the module.
        indexes: The indexes of all catalogues.

    Returns:
        The question, with the most similar event first; empty if no event of a catalogue carries the context.
    """
    context = get_proper_type(given)
    if not isinstance(context, Instance):
        return ""
    own_module = event.full_name.rpartition(".")[0]

    def distance(name: str) -> tuple[bool, float, str]:
        module, _, constant = name.rpartition(".")
        return module != own_module, -difflib.SequenceMatcher(None, event.constant, constant).ratio(), name

    carriers = {
        name
        for module in (own_module, context.type.module_name)
        if module in api.modules
        for name, entry in indexes.next_to(api.modules[module].path).events.items()
        if entry.get("context") == context.type.fullname
    }
    found = sorted(carriers - {event.full_name}, key=distance)[:_MAX_ALTERNATIVES]
    return f". Did you mean the event {join([name.rpartition('.')[2] for name in found], 'or')}?" if found else ""


def join(items: Collection[str], word: str = "and") -> str:
    """Return a list in words, such as `a, b and c`."""
    *others, last = items
    return f"{', '.join(others)} {word} {last}" if others else last


def _id_in_source(path: str, constant: str) -> str | None:
    """Return the literal id in a module-level definition of an event.

    The source is read because mypy has no tree of a module that comes from its cache, and messages must not depend on
    that.
    """
    try:
        return _ids_in(Path(path).read_bytes()).get(constant)
    except (OSError, SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=16)
def _ids_in(source: bytes) -> Mapping[str, str]:
    """Return the literal ids in the assignments of a module, parsed once and not for each of its handlers."""
    return {
        name: str(keyword.value.value)
        for name, keyword in _keywords(source)
        if keyword.arg == "id" and isinstance(keyword.value, ast.Constant)
    }


@functools.lru_cache(maxsize=16)
def _in_steps(source: bytes) -> frozenset[str]:
    """Return the names of the events of a module that may lie in a step."""
    return frozenset(name for name, keyword in _keywords(source) if keyword.arg in ("in_step", None))


def _keywords(source: bytes) -> Iterator[tuple[str, ast.keyword]]:
    """Yield the keyword arguments of each call whose result a module assigns to a name at its top level."""
    for name, value in _assignments(ast.parse(source)):
        if isinstance(value, ast.Call):
            yield from ((name, keyword) for keyword in value.keywords)


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield each name that a module assigns at its top level, with the value."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=annotated):
                yield name, annotated
