"""What an event expression in checked code stands for."""

import ast
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from mypy.nodes import Expression, MypyFile, RefExpr

from d9d.mypy.index import Indexes


@dataclasses.dataclass(frozen=True)
class EventName:
    """How the author of the code knows an event.

    Attributes:
        full_name: Module and constant; just the name of a local variable; empty if the event has no name.
        id: The id of the event, if it could be found out.
    """

    full_name: str = ""
    id: str | None = None

    @property
    def constant(self) -> str:
        """The name of the constant alone, if the event has one."""
        return self.full_name.rpartition(".")[2]

    def __str__(self) -> str:
        constant = self.constant or "an event"
        return constant if self.id is None else f'{constant} ("{self.id}")'


def name_event(expression: Expression | None, modules: dict[str, MypyFile], indexes: Indexes) -> EventName:
    """Find the constant and the id of an event, in the index beside its module or else in its source.

    Args:
        expression: What the code passes as the event, if that is known.
        modules: All modules of this run.
        indexes: Where catalogues declare their events.

    Returns:
        All that could be found out.
    """
    if not isinstance(expression, RefExpr):
        return EventName()
    # The name of an imported constant is that of its definition; an attribute of an object has none.
    return find_event(expression.fullname or getattr(expression, "name", ""), modules, indexes)


def find_event(full_name: str, modules: dict[str, MypyFile], indexes: Indexes) -> EventName:
    """Find the id of an event of a known name.

    Args:
        full_name: Module and constant.
        modules: All modules of this run.
        indexes: Where catalogues declare their events.

    Returns:
        All that could be found out.
    """
    module = modules.get(full_name.rpartition(".")[0])
    if module is None:
        return EventName(full_name)
    entry = indexes.beside(module.path).event(full_name)
    if entry is not None and isinstance(entry.get("id"), str):
        return EventName(full_name, entry["id"])
    return EventName(full_name, _id_in_source(module.path, full_name.rpartition(".")[2]))


def _id_in_source(path: str, constant: str) -> str | None:
    """Return the literal id in a module-level definition of an event.

    The source is read since mypy's own tree is gone where the module comes from the cache, and messages shall not
    depend on that.
    """
    try:
        return _ids_in(Path(path).read_bytes()).get(constant)
    except (OSError, SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=16)
def _ids_in(source: bytes) -> Mapping[str, str]:
    """Return the literal ids that a module gives to what it assigns; parsed once, not for each of its handlers."""
    return {
        name: str(keyword.value.value)
        for name, value in _assignments(ast.parse(source))
        if isinstance(value, ast.Call)
        for keyword in value.keywords
        if keyword.arg == "id" and isinstance(keyword.value, ast.Constant)
    }


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield each name that the module assigns at its top level, with the value."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=annotated):
                yield name, annotated
