"""One edition of a catalogue, with what a comparison asks of it."""

from typing import TypeVar

from d9d_codegen import annotation
from d9d_codegen.evolution.change import Place
from d9d_codegen.model import Catalogue, Context, EventSpec, Field, Module
from d9d_codegen.reference import Scope
from d9d_codegen.source import Text

_Entry = TypeVar("_Entry", EventSpec, Field, Context)


class Edition:
    """An edition.

    Args:
        catalogue: What it declares.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.modules = {str(module.name): module for module in catalogue.modules}
        self._scopes = {name: Scope(catalogue, module) for name, module in self.modules.items()}
        self._paths = {f".{path.removeprefix(f'{catalogue.package}.')}": path for path in catalogue.contexts}

    def place(self, text: Text) -> Place:
        """Return the place of a text of this edition."""
        return Place(self.catalogue.source, text)

    def holder(self, module: str) -> Text:
        """Return what stands for a module: its name, or the package where there is no such module."""
        return self.modules[module].name if module in self.modules else self.catalogue.package

    def context_path(self, module: Module, name: str) -> str:
        """Return what a context's name stands for, whatever the package is called."""
        path = self._scopes[module.name].resolve(name) or name
        inner = f".{path.removeprefix(f'{self.catalogue.package}.')}"
        return inner if inner in self._paths and self._paths[inner] == path else path

    def successor(self, path: str) -> str:
        """Return the context that a deprecated context is an alias of; any other context itself."""
        context = self.catalogue.contexts[self._paths[path]] if path in self._paths else None
        if context is None or not context.status.replaced_by:
            return path
        return f"{path.rpartition('.')[0]}.{context.status.replaced_by}"

    def type_text(self, module: Module, field: Field, following: "Edition") -> str:
        """Return a field's type with each name as what it stands for in the edition that follows."""

        def spell(name: str) -> str:
            if name in annotation.BUILTINS:
                return name
            path = following.successor(self.context_path(module, name))
            return f"own{path}" if path.startswith(".") else path

        try:
            return annotation.parse(field.type).write(spell)
        except annotation.TypeSyntaxError:
            return field.type


def event_target(event: EventSpec, module: Module) -> EventSpec:
    """Return the event that a deprecated event is an alias of; any other event itself."""
    return _target(event, {str(other.name): other for other in module.events})


def field_target(field: Field, context: Context) -> Field:
    """Return the field that a deprecated field is an alias of; any other field itself."""
    return _target(field, {str(other.name): other for other in context.fields})


def context_target(context: Context, module: Module) -> Context:
    """Return the context that a deprecated context is an alias of; any other context itself."""
    return _target(context, {str(other.name): other for other in module.contexts})


def _target(entry: _Entry, siblings: dict[str, _Entry]) -> _Entry:
    return siblings.get(entry.status.replaced_by or "", entry)
