"""A catalogue as data, and how it is built from the YAML tree. Every text in it knows its position."""

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
    """One rule that is suppressed in one entry: `allow: [rule]`.

    Attributes:
        rule: The name of the rule.
        owner: The name of the entry.
        start: The line and column where the entry begins, counted from 1.
        end: Where it ends, exclusive.
    """

    rule: Text
    owner: Text
    start: tuple[int, int]
    end: tuple[int, int]

    def covers(self, position: Span) -> bool:
        """Return whether a position is inside the entry."""
        return self.start <= (position.line, position.column) < self.end


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Announces the removal of an entry.

    Attributes:
        key: The key `deprecated` itself.
        since: The version that deprecated it.
        replaced_by: The name of its replacement.
        note: Further advice.
    """

    key: Text
    since: Text | None
    replaced_by: Text | None
    note: Text | None


@dataclass(frozen=True, slots=True)
class Status:
    """The stability of an entry.

    Attributes:
        since: The version that added it.
        stability: "experimental" or "stable".
        deprecated: Announces its removal.
    """

    since: Text | None
    stability: Text | None
    deprecated: Deprecation | None

    @property
    def replaced_by(self) -> Text | None:
        """The name that the entry is only an alias of."""
        return self.deprecated.replaced_by if self.deprecated else None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a context.

    Attributes:
        name: Its name in Python.
        type: A Python type expression whose names are builtins, contexts or full dotted paths.
        doc: What it means.
        default: A Python literal, if the field is optional.
        device: Whether the value is on the device, so that reading it makes the host wait.
        status: Its stability.
    """

    name: Text
    type: Text
    doc: Text
    default: Text | None
    device: bool
    status: Status


@dataclass(frozen=True, slots=True)
class Context:
    """What an event passes to its handlers.

    Attributes:
        name: The name of its class.
        doc: What it means.
        fields: Its fields, as declared.
        status: Its stability.
    """

    name: Text
    doc: Text
    fields: tuple[Field, ...]
    status: Status

    @property
    def own_fields(self) -> list[Field]:
        """Its fields without aliases."""
        return [field for field in self.fields if not field.status.replaced_by]


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run.

    Attributes:
        name: Its name.
        doc: What happens in it.
        repeats: Whether it may run more than once.
        optional: Whether a run may skip it.
        anytime: Whether its events may fall between any two others.
        terminal: Whether nothing follows it, and every complete run ends in it.
        around: The phase before, between and after whose runs it may stand.
        any_order: Whether its events keep no order.
        aborts: Whether it may follow any event, and only a terminal phase follows it.
    """

    name: Text
    doc: Text
    repeats: bool
    optional: bool
    anytime: bool
    terminal: bool
    around: Text | None
    any_order: bool
    aborts: bool


@dataclass(frozen=True, slots=True)
class EventSpec:
    """A moment of a run.

    Attributes:
        name: The name of its constant.
        id: Its id on the bus.
        phase: The name of its phase.
        context: The name of its context, or the full dotted path of one.
        doc: When it is triggered.
        repeats: Whether it may be triggered more than once in a row.
        optional: Whether a run may skip it.
        ends: The event that it closes. `repeats` and `optional` are then meant for both and what is between them.
        after: The event that must have been triggered before it.
        status: Its stability.
    """

    name: Text
    id: Text
    phase: Text
    context: Text
    doc: Text
    repeats: bool
    optional: bool
    ends: Text | None
    after: Text | None
    status: Status


@dataclass(frozen=True, slots=True)
class Module:
    """A part of the catalogue that becomes one Python module.

    Attributes:
        name: Its name, and the first segment of its events' ids.
        doc: What it is about.
        phases: In the order of a run.
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
        """Its events and contexts."""
        return [*self.events, *self.contexts]

    @property
    def own_contexts(self) -> list[Context]:
        """Its contexts without aliases."""
        return [context for context in self.contexts if not context.status.replaced_by]

    @property
    def own_events(self) -> list[EventSpec]:
        """Its events without aliases, which are never triggered."""
        return [event for event in self.events if not event.status.replaced_by]


@dataclass(frozen=True)
class Catalogue:
    """A whole catalogue.

    Attributes:
        source: The text that it was read from.
        package: The dotted name of the package that its modules are written into.
        modules: As declared.
        environment: The other catalogues and the importable modules, once they are known.
        suppressions: The rules that are suppressed, and where.
    """

    source: Source
    package: Text
    modules: tuple[Module, ...]
    environment: Environment | None = None
    suppressions: tuple[Suppression, ...] = ()

    @cached_property
    def common(self) -> Module | None:
        """The module whose contexts every other module may name, if there is one."""
        return next((module for module in self.modules if module.name == _COMMON), None)

    @property
    def as_sibling(self) -> Sibling:
        """What the other catalogues of its project know of it."""
        modules = tuple(str(module.name) for module in self.modules)
        return Sibling(self.source.path, str(self.package), modules, tuple(self.contexts))

    def is_module(self, path: str) -> bool:
        """Return whether a dotted path is an importable module."""
        return self.environment is not None and self.environment.resolver.find(path) is not None

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
        """The contexts that are aliases, and what they stand for, by full dotted path."""
        return {
            path: f"{path.rpartition('.')[0]}.{context.status.replaced_by}"
            for path, context in self.contexts.items()
            if context.status.replaced_by
        }


class Scope:
    """The contexts that can be named within one module.

    Args:
        catalogue: The whole catalogue.
        module: The module.
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
        """Return the full dotted path of a context, or None where it does not exist.

        Contexts of other catalogues are assumed to exist. An alias resolves to the context that it stands for.
        """
        path = self.path(name)
        if path is None or path in self._catalogue.contexts:
            return self._catalogue.renamed_contexts.get(path or "", path)
        return None if path.rpartition(".")[0] in self._catalogue.module_paths else path

    def path(self, name: str) -> str | None:
        """Return the full dotted path that a name stands for, whether or not such a context exists."""
        return name if "." in name else self._bare.get(name)


def sentences(status: Status) -> Iterator[str]:
    """Yield sentences about the stability of an entry."""
    if status.since:
        yield f"Since {status.since}."
    if status.stability == "experimental":
        yield "Experimental: it may still change."
    if status.stability == "stable":
        yield "Stable."
    if status.deprecated:
        yield deprecation(status)


def deprecation(status: Status) -> str:
    """Return since when an entry is deprecated and what to use instead; an empty text where it is not deprecated."""
    deprecated = status.deprecated
    if not deprecated:
        return ""
    replacement = f"; use {deprecated.replaced_by} instead" if deprecated.replaced_by else ""
    note = f" {deprecated.note.strip()}" if deprecated.note else ""
    return f"Deprecated since {deprecated.since}{replacement}.{note}"


def with_status(doc: str, status: Status) -> str:
    """Return a text with a paragraph about the stability of its entry, if there is anything to say."""
    paragraph = " ".join(sentences(status))
    return f"{doc.strip()}\n\n{paragraph}" if paragraph else doc


def load(source: Source, diagnostics: Diagnostics) -> Catalogue | None:
    """Build the model of a catalogue.

    A value that is missing or of the wrong kind is reported and becomes an empty text, so that the rules can check the
    rest.

    Args:
        source: The text of the catalogue.
        diagnostics: Takes what is wrong.

    Returns:
        The model, or None where the text is not readable YAML.
    """
    root = compose(source, diagnostics)
    if root is None:
        return None
    check_shape(root, CATALOGUE, diagnostics)
    entry = _Entry(Text("", root.span), root)
    modules = tuple(_module(module) for module in entry.named("modules"))
    return Catalogue(source, entry.text("package"), modules, suppressions=tuple(suppressions_in(root, CATALOGUE)))


class _Entry:
    """A mapping whose values are read by key; invalid values read as missing."""

    def __init__(self, name: Text, node: Node) -> None:
        self.name = name
        entries = node.entries if isinstance(node, Mapping) else {}
        self._entries: dict[str, tuple[Text, Node]] = {key: (key, value) for key, value in entries.items()}

    def optional_text(self, key: str) -> Text | None:
        """Return the value of a key, or None where it is missing."""
        _, node = self._entries.get(key, (None, None))
        return node.text if isinstance(node, Scalar) and node.text.strip() else None

    def text(self, key: str) -> Text:
        """Return the value of a key, or an empty text where it is missing."""
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
        """Return the entry below a key, or None where it is missing."""
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
        around=entry.optional_text("around"),
        any_order=entry.flag("any_order"),
        aborts=entry.flag("aborts"),
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
        device=entry.flag("device"),
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
        ends=entry.optional_text("ends"),
        after=entry.optional_text("after"),
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
    """Yield the suppressions in a tree, where its shape is right.

    Args:
        node: An entry.
        shape: Its expected shape.
        name: The key that holds it; None for the catalogue itself.
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
