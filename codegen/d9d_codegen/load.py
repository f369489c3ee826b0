"""From the text of a catalogue to the model of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from d9d_codegen import shape
from d9d_codegen.exemption import exemptions_in
from d9d_codegen.model import Catalogue, Context, Deprecation, EventSpec, Field, Module, Phase, Status
from d9d_codegen.node import Mapping, Node, Scalar, compose
from d9d_codegen.problem import Problem, Problems, RefusedError
from d9d_codegen.source import Source, Text

_MAX_BYTES: Final = 1 << 25  # several times what 10,000 events take; a device has no end


def read(path: Path) -> Source:
    """Read the text of a catalogue.

    Raises:
        RefusedError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file", "name the catalogue with --catalogue PATH") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unreadable(path, f"the file cannot be read: {reason}", "name a file that can be read") from None
    if len(content) > _MAX_BYTES:
        raise _unreadable(path, f"the file holds more than {_MAX_BYTES >> 20} MiB", "name a catalogue, or split it")
    try:
        return Source(path, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8: line {line} holds the byte 0x{content[error.start]:02x}"
        raise _unreadable(path, message, "save it as UTF-8") from None


def _unreadable(path: Path, message: str, remedy: str) -> RefusedError:
    return RefusedError([Problem(path, "unreadable", message, remedy)])


def load(source: Source, problems: Problems) -> Catalogue | None:
    """Build the model of a catalogue.

    What is missing or of a wrong kind is noted and becomes an empty text, so that the rules can look at all the rest.

    Args:
        source: The text of the catalogue.
        problems: Takes what is wrong.

    Returns:
        The model, or nothing where the text is no readable YAML.
    """
    root = compose(source, problems)
    if root is None:
        return None
    shape.check(root, shape.CATALOGUE, problems)
    entry = _Entry(Text("", root.span), root)
    modules = tuple(_module(module) for module in entry.named("modules"))
    return Catalogue(source, entry.text("package"), modules, exemptions=tuple(exemptions_in(root, shape.CATALOGUE)))


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
