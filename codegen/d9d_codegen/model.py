"""A catalogue, as data. Every text in it knows where it stands."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from d9d_codegen.exemption import Exemption
from d9d_codegen.source import Source, Text
from d9d_codegen.surroundings import Neighbour, Surroundings

_COMMON: Final = "common"


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Says that something will go.

    Attributes:
        key: The key `deprecated` itself.
        since: The version that deprecated it.
        replaced_by: The name of what takes its place.
        note: What else there is to say.
    """

    key: Text
    since: Text | None
    replaced_by: Text | None
    note: Text | None


@dataclass(frozen=True, slots=True)
class Status:
    """How settled something is.

    Attributes:
        since: The version that brought it.
        stability: "experimental" or "stable".
        deprecated: Says that it will go.
    """

    since: Text | None
    stability: Text | None
    deprecated: Deprecation | None

    @property
    def replaced_by(self) -> Text | None:
        """The name of what the entry is but an alias of."""
        return self.deprecated.replaced_by if self.deprecated else None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a context.

    Attributes:
        name: Its name in Python.
        type: A Python type expression whose names are builtins, contexts or full dotted paths.
        doc: What it means.
        default: A Python literal, where the field may be left out.
        status: How settled it is.
    """

    name: Text
    type: Text
    doc: Text
    default: Text | None
    status: Status


@dataclass(frozen=True, slots=True)
class Context:
    """What an event tells those who hear it.

    Attributes:
        name: The name of its class.
        doc: What it means.
        fields: Its fields, as declared.
        status: How settled it is.
    """

    name: Text
    doc: Text
    fields: tuple[Field, ...]
    status: Status

    @property
    def own_fields(self) -> list[Field]:
        """Its fields without those that are but aliases of others."""
        return [field for field in self.fields if not field.status.replaced_by]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a run.

    Attributes:
        name: Its name.
        doc: What it means.
        repeats: Whether it may run more than once.
        optional: Whether a run may pass it over.
        anytime: Whether its events may fall between any two others.
        terminal: Whether nothing follows it.
    """

    name: Text
    doc: Text
    repeats: bool
    optional: bool
    anytime: bool
    terminal: bool


@dataclass(frozen=True, slots=True)
class EventSpec:
    """A moment of a run.

    Attributes:
        name: The name of its constant.
        id: What the bus knows it by.
        phase: The name of the phase that it belongs to.
        context: The name of its context, or the full dotted path of one.
        doc: When it is triggered.
        repeats: Whether it may be triggered more than once in a row.
        optional: Whether a run may leave it out.
        status: How settled it is.
    """

    name: Text
    id: Text
    phase: Text
    context: Text
    doc: Text
    repeats: bool
    optional: bool
    status: Status


@dataclass(frozen=True, slots=True)
class Module:
    """What becomes one Python module.

    Attributes:
        name: Its name, and the first segment of its events' ids.
        doc: What it is about.
        phases: In the order in which a run passes through them.
        contexts: As declared.
        events: In the order in which the loop triggers them.
    """

    name: Text
    doc: Text
    phases: tuple[Phase, ...]
    contexts: tuple[Context, ...]
    events: tuple[EventSpec, ...]

    @property
    def entries(self) -> list[EventSpec | Context]:
        """All that it names: its events and its contexts."""
        return [*self.events, *self.contexts]

    @property
    def own_contexts(self) -> list[Context]:
        """Its contexts without those that are but aliases of others."""
        return [context for context in self.contexts if not context.status.replaced_by]

    @property
    def own_events(self) -> list[EventSpec]:
        """Its events without those that are but aliases of others, which nothing triggers."""
        return [event for event in self.events if not event.status.replaced_by]


@dataclass(frozen=True)
class Catalogue:
    """A whole catalogue.

    Attributes:
        source: What it was read from.
        package: The dotted name of the package that its modules are written into.
        modules: As declared.
        surroundings: What lies around it, where that matters.
        exemptions: From which rules, and where.
    """

    source: Source
    package: Text
    modules: tuple[Module, ...]
    surroundings: Surroundings | None = None
    exemptions: tuple[Exemption, ...] = ()

    @cached_property
    def common(self) -> Module | None:
        """The module whose contexts every other one may name, if there is one."""
        return next((module for module in self.modules if module.name == _COMMON), None)

    @property
    def as_neighbour(self) -> Neighbour:
        """What the other catalogues of its project know of it."""
        modules = tuple(str(module.name) for module in self.modules)
        return Neighbour(self.source.path, str(self.package), modules, tuple(self.contexts))

    @cached_property
    def module_paths(self) -> frozenset[str]:
        """The full dotted paths of all modules."""
        return frozenset(f"{self.package}.{module.name}" for module in self.modules)

    @cached_property
    def contexts(self) -> dict[str, Context]:
        """All contexts by their full dotted paths."""
        return {
            f"{self.package}.{module.name}.{context.name}": context
            for module in self.modules
            for context in module.contexts
        }

    @cached_property
    def renamed_contexts(self) -> dict[str, str]:
        """The contexts that are but aliases and those that they stand for, all by their full dotted paths."""
        return {
            path: f"{path.rpartition('.')[0]}.{context.status.replaced_by}"
            for path, context in self.contexts.items()
            if context.status.replaced_by
        }
