"""Deprecated names that still work: what a module defines for each entry that says `replaced_by`."""

from collections.abc import Iterator
from dataclasses import dataclass

from d9d_codegen.docstring import Docstring
from d9d_codegen.literal import write_literal
from d9d_codegen.model import Catalogue, Context, EventSpec, Module, Status
from d9d_codegen.reference import Scope
from d9d_codegen.status import deprecation


@dataclass(frozen=True, slots=True)
class NameAlias:
    """A name of a module that stands for another one in it.

    Attributes:
        name: The deprecated name.
        target: The name that it stands for.
        message: The warning, as Python source.
        docstring: What stands below the name.
        skip: A comment that keeps the formatter away, where no line is short enough.
    """

    name: str
    target: str
    message: str
    docstring: Docstring
    skip: str


@dataclass(frozen=True, slots=True)
class FieldAlias:
    """A property of a context that stands for a field of it.

    Attributes:
        name: The deprecated name.
        target: The field that it stands for.
        type: The type of both, as Python source.
        message: The warning, as Python source.
        docstring: The property's docstring.
        skip: A comment that keeps the formatter away, where no line is short enough.
    """

    name: str
    target: str
    type: str
    message: str
    docstring: Docstring
    skip: str


def warning(name: str, status: Status) -> str:
    """Return what the user of a deprecated name is told, as Python source."""
    return write_literal(f"{name} is d{deprecation(status)[1:]}")


def aliases(catalogue: Catalogue, module: Module) -> Iterator[tuple[EventSpec | Context, str]]:
    """Yield what in a module is but an alias, with the name that it stands for.

    A context that the module's events have and `common` defines was importable from the module under its old name, and
    still is.
    """
    own = {str(entry.name) for entry in module.entries}
    for entry in module.entries:
        if entry.status.replaced_by:
            yield entry, entry.status.replaced_by
    path_of_module, scope = f"{catalogue.package}.{module.name}", Scope(catalogue, module)
    carried = {scope.resolve(event.context) for event in module.own_events}
    for path, target in catalogue.renamed_contexts.items():
        context = catalogue.contexts[path]
        if path.rpartition(".")[0] != path_of_module and context.name not in own and target in carried:
            yield context, target
