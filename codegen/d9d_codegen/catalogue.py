"""The model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from d9d_codegen.diagnostic import Diagnostics, Source, Span, Text
from d9d_codegen.read import Mapping, Node, Scalar, Sequence, compose
from d9d_codegen.resolve import Environment, Sibling
from d9d_codegen.schema import CATALOGUE, Listed, Named, Shape, check_shape

_COMMON: Final = "common"


@dataclass(frozen=True, slots=True)
class Suppression:
    """One rule that finds nothing in one entry.

    Attributes:
        rule: The name of the rule.
        owner: The name of the entry.
        start: The line and the column where the entry begins, counted from 1.
        end: Where it ends, exclusively.
    """

    rule: Text
    owner: Text
    start: tuple[int, int]
    end: tuple[int, int]

    def covers(self, place: Span) -> bool:
        """Return whether a place is within the entry."""
        return self.start <= (place.line, place.column) < self.end


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
        environment: What lies around it, where that matters.
        suppressions: From which rules, and where.
    """

    source: Source
    package: Text
    modules: tuple[Module, ...]
    environment: Environment | None = None
    suppressions: tuple[Suppression, ...] = ()

    @cached_property
    def common(self) -> Module | None:
        """The module whose contexts every other one may name, if there is one."""
        return next((module for module in self.modules if module.name == _COMMON), None)

    @property
    def as_sibling(self) -> Sibling:
        """What the other catalogues of its project know of it."""
        modules = tuple(str(module.name) for module in self.modules)
        return Sibling(self.source.path, str(self.package), modules, tuple(self.contexts))

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


class Scope:
    """The contexts that can be named within one module.

    Args:
        catalogue: The whole catalogue.
        module: The module in question.
    """

    def __init__(self, catalogue: Catalogue, module: Module) -> None:
        self._catalogue = catalogue
        common = [catalogue.common] if catalogue.common else []
        self._bare = {
            str(context.name): f"{catalogue.package}.{owner.name}.{context.name}"
            for owner in (*common, module)
            for context in owner.contexts
        }

    @property
    def names(self) -> list[str]:
        """The bare names of all contexts in scope."""
        return list(self._bare)

    def resolve(self, name: str) -> str | None:
        """Return the full dotted path of a context, or nothing where there is no such context.

        Contexts outside of the catalogue are taken at their word, and an alias for the context that it stands for.
        """
        path = self.path(name)
        if path is None or path in self._catalogue.contexts:
            return self._catalogue.renamed_contexts.get(path or "", path)
        return None if path.rpartition(".")[0] in self._catalogue.module_paths else path

    def path(self, name: str) -> str | None:
        """Return the full dotted path that a name stands for, be there such a context or not; nothing if none does."""
        return name if "." in name else self._bare.get(name)


def sentences(status: Status) -> Iterator[str]:
    """Yield what there is to say about an entry: since when, how stable, and whether it will go."""
    if status.since:
        yield f"Since {status.since}."
    if status.stability == "experimental":
        yield "Experimental: it may still change."
    if status.stability == "stable":
        yield "Stable."
    if status.deprecated:
        yield deprecation(status)


def deprecation(status: Status) -> str:
    """Return since when an entry is deprecated, and what to use instead; nothing where it is not."""
    deprecated = status.deprecated
    if not deprecated:
        return ""
    replacement = f"; use {deprecated.replaced_by} instead" if deprecated.replaced_by else ""
    note = f" {deprecated.note.strip()}" if deprecated.note else ""
    return f"Deprecated since {deprecated.since}{replacement}.{note}"


def with_status(doc: str, status: Status) -> str:
    """Return a text with a paragraph below it that says how settled the entry is, if anything is said about that."""
    paragraph = " ".join(sentences(status))
    return f"{doc.strip()}\n\n{paragraph}" if paragraph else doc


def load(source: Source, diagnostics: Diagnostics) -> Catalogue | None:
    """Build the model of a catalogue.

    What is missing or of a wrong kind is noted and becomes an empty text, so that the rules can look at all the rest.

    Args:
        source: The text of the catalogue.
        diagnostics: Takes what is wrong.

    Returns:
        The model, or nothing where the text is no readable YAML.
    """
    root = compose(source, diagnostics)
    if root is None:
        return None
    check_shape(root, CATALOGUE, diagnostics)
    entry = _Entry(Text("", root.span), root)
    modules = tuple(_module(module) for module in entry.named("modules"))
    return Catalogue(source, entry.text("package"), modules, suppressions=tuple(suppressions_in(root, CATALOGUE)))


class _Entry:
    """A mapping whose values are asked for by key; what was refused already reads as missing."""

    def __init__(self, name: Text, node: Node) -> None:
        self.name = name
        entries = node.entries if isinstance(node, Mapping) else {}
        self._entries: dict[str, tuple[Text, Node]] = {key: (key, value) for key, value in entries.items()}

    def optional_text(self, key: str) -> Text | None:
        """Return the value of a key, if it is there."""
        _, node = self._entries.get(key, (None, None))
        return node.text if isinstance(node, Scalar) and node.text.strip() else None

    def text(self, key: str) -> Text:
        """Return the value of a key; an empty text where it is missing."""
        return self.optional_text(key) or Text("", self.name.span)

    def flag(self, key: str) -> bool:
        """Return whether a flag is set."""
        return self.text(key).lower() in ("true", "yes", "on")

    def named(self, key: str) -> "Iterator[_Entry]":
        """Yield the entries of a mapping of names."""
        _, node = self._entries.get(key, (None, None))
        if isinstance(node, Mapping):
            yield from (_Entry(name, child) for name, child in node.entries.items() if name)

    def child(self, key: str) -> "_Entry | None":
        """Return the entry that a key holds, if it is there."""
        return _Entry(*self._entries[key]) if key in self._entries else None


def _module(entry: _Entry) -> Module:
    return Module(
        name=entry.name,
        doc=entry.text("doc"),
        phases=tuple(_phase(phase) for phase in entry.named("phases")),
        contexts=tuple(_context(context) for context in entry.named("contexts")),
        events=tuple(_event(event) for event in entry.named("events")),
    )


def _phase(entry: _Entry) -> Phase:
    return Phase(
        name=entry.name,
        doc=entry.text("doc"),
        repeats=entry.flag("repeats"),
        optional=entry.flag("optional"),
        anytime=entry.flag("anytime"),
        terminal=entry.flag("terminal"),
    )


def _context(entry: _Entry) -> Context:
    return Context(
        name=entry.name,
        doc=entry.text("doc"),
        fields=tuple(_field(field) for field in entry.named("fields")),
        status=_status(entry),
    )


def _field(entry: _Entry) -> Field:
    return Field(
        name=entry.name,
        type=entry.text("type"),
        doc=entry.text("doc"),
        default=entry.optional_text("default"),
        status=_status(entry),
    )


def _event(entry: _Entry) -> EventSpec:
    return EventSpec(
        name=entry.name,
        id=entry.text("id"),
        phase=entry.text("phase"),
        context=entry.text("context"),
        doc=entry.text("doc"),
        repeats=entry.flag("repeats"),
        optional=entry.flag("optional"),
        status=_status(entry),
    )


def _status(entry: _Entry) -> Status:
    deprecated = entry.child("deprecated")
    return Status(
        since=entry.optional_text("since"),
        stability=entry.optional_text("stability"),
        deprecated=_deprecation(deprecated) if deprecated else None,
    )


def _deprecation(entry: _Entry) -> Deprecation:
    return Deprecation(
        key=entry.name,
        since=entry.optional_text("since"),
        replaced_by=entry.optional_text("replaced_by"),
        note=entry.optional_text("note"),
    )


def suppressions_in(node: Node, shape: Shape, name: Text | None = None) -> Iterator[Suppression]:
    """Yield the suppressions in a tree, as far as it has the right shape.

    Args:
        node: An entry.
        shape: What it should look like.
        name: The key that holds it; the catalogue itself has none.
    """
    if not isinstance(node, Mapping):
        return
    for key, child in node.entries.items():
        expected = shape.keys[key].value if key in shape.keys else None
        if isinstance(expected, Listed) and isinstance(child, Sequence) and name is not None:
            for item in child.items:
                if isinstance(item, Scalar) and item.kind == "text" and item.text:
                    yield Suppression(item.text, name, name.span[:2], node.end)
        elif isinstance(expected, Named) and isinstance(child, Mapping):
            for inner, entry in child.entries.items():
                yield from suppressions_in(entry, expected.shape, inner)
