"""YAML as a tree: mappings with unique text keys, lists and scalars, each with its position.

The tree is built from the parser's events, not by PyYAML's own composer, which recurses, builds whatever object a tag
asks for, follows aliases, and lets the second of two equal keys win.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from d9d_codegen.diagnostic import START, Diagnostic, DiagnosticError, Diagnostics, Source, Span, Text

_MAX_DEPTH: Final = 24  # a catalogue needs 8
_MAX_BYTES: Final = 1 << 25  # several times what 10,000 events take; a device has no end
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Final[Any] = yaml.resolver.Resolver()  # untyped in the stubs
_KINDS: Final = {
    "tag:yaml.org,2002:bool": "a boolean",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:int": "an integer",
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:timestamp": "a date",
}
_REMEDIES: Final = {
    "tab character": "indent with spaces, not tabs",
    "cannot start any token": "indent with spaces, not tabs, and quote a text that begins with one of @ ` %",
    "mapping values are not allowed": 'put a text that contains ": " in quotes, or write it below ">-"',
    "could not find expected ':'": "write a colon and a space between a key and its value",
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value.

    Attributes:
        text: The value as text.
        kind: What YAML reads it as: "text", "a boolean", …; empty where a diagnostic already covers it.
    """

    text: Text
    kind: str

    @property
    def span(self) -> Span:
        """The position of the value."""
        return self.text.span


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    span: Span
    items: "list[Node]" = field(default_factory=list)
    kind: str = "a list"


@dataclass(slots=True)
class Mapping:
    """Keys and values in file order; it grows until the parser reaches its end."""

    span: Span
    entries: "dict[Text, Node]" = field(default_factory=dict)
    kind: str = "a mapping"
    end: tuple[int, int] = (0, 0)  # the line and the column behind it, counted from 1


Node = Scalar | Sequence | Mapping


def compose(source: Source, diagnostics: Diagnostics) -> Node | None:
    """Return the document's tree, or None where it cannot be read to the end."""
    composer = _Composer(source, diagnostics)
    try:
        complete = all(composer.take(event) for event in yaml.parse(source.text, Loader=_LOADER))
    except yaml.reader.ReaderError as error:
        diagnostics.add(
            "bad-yaml",
            _position_of(source, error),
            f"YAML does not allow the character U+{error.character:04X}",
            "remove it",
        )
        return None
    except yaml.MarkedYAMLError as error:
        diagnostics.add("bad-yaml", *_explain(source, error))
        return None
    if complete and composer.root is None:
        diagnostics.add("bad-yaml", START, "the catalogue is empty", "begin with `version: 1`")
    return composer.root if complete else None


def _position_of(source: Source, error: yaml.reader.ReaderError) -> Span:
    before = source.text.partition(chr(error.character))[0]
    lines = Source(source.path, before).lines
    return Span(len(lines), len(lines[-1]) + 1, 1)


def _explain(source: Source, error: yaml.MarkedYAMLError) -> tuple[Span, str, str]:
    ends_too_early = error.problem is None or "end of stream" in error.problem
    mark = (error.context_mark if ends_too_early else None) or error.problem_mark or error.context_mark
    span = source.span((mark.line, mark.column), (mark.line, mark.column)) if mark else START
    what = error.problem or "the text ends too early"
    message = f"{error.context}: {what}" if error.context else what
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in what), "correct the YAML here or just above")
    return span, message, remedy


class _Composer:
    """Builds the tree from the parser's events, one by one."""

    def __init__(self, source: Source, diagnostics: Diagnostics) -> None:
        self.root: Node | None = None
        self._source = source
        self._diagnostics = diagnostics
        self._open: list[Mapping | Sequence] = []
        self._keys: list[Text | None] = []  # for each open mapping, the key whose value comes next
        self._firsts: list[dict[str, Text]] = []  # for each open mapping, its keys, once one is repeated
        self._num_documents = 0

    def take(self, event: yaml.Event) -> bool:
        """Take one event; return whether to read further."""
        if isinstance(event, yaml.DocumentStartEvent):
            return self._start_document(event)
        if isinstance(event, yaml.CollectionEndEvent):
            self._close(event)
        if not isinstance(event, yaml.NodeEvent):
            return True
        self._refuse_extras(event)
        node = self._node(event)
        self._attach(node)
        if isinstance(node, Scalar):
            return True
        self._open.append(node)
        self._keys.append(None)
        self._firsts.append({})
        if len(self._open) > _MAX_DEPTH:
            self._diagnostics.add(
                "bad-yaml", node.span, "the catalogue is nested too deeply", "a catalogue has at most 8 levels"
            )
        return len(self._open) <= _MAX_DEPTH

    def _close(self, event: yaml.Event) -> None:
        node = self._open.pop()
        self._keys.pop()
        self._firsts.pop()
        if isinstance(node, Mapping) and event.end_mark:
            node.end = (event.end_mark.line + 1, event.end_mark.column + 1)

    def _span(self, event: yaml.Event) -> Span:
        start, end = event.start_mark, event.end_mark
        if start is None or end is None:
            return START
        return self._source.span((start.line, start.column), (end.line, end.column))

    def _start_document(self, event: yaml.DocumentStartEvent) -> bool:
        self._num_documents += 1
        if self._num_documents > 1:
            self._diagnostics.add(
                "bad-yaml",
                self._span(event),
                "a second YAML document begins here",
                "put each catalogue in a separate file",
            )
        return self._num_documents == 1

    def _refuse_extras(self, event: yaml.NodeEvent) -> None:
        for rule, remedy in _extras(event):
            self._diagnostics.add(
                rule, self._span(event), f"a catalogue must not contain a YAML {rule.split('-')[1]}", remedy
            )

    def _node(self, event: yaml.NodeEvent) -> Node:
        span = self._span(event)
        if isinstance(event, yaml.MappingStartEvent):
            return Mapping(span, kind="" if event.tag else "a mapping")
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(span, kind="" if event.tag else "a list")
        if not isinstance(event, yaml.ScalarEvent) or event.tag:
            return Scalar(Text("", span), "")
        tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
        return Scalar(Text(event.value, span), _KINDS.get(tag, "text"))

    def _attach(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent, key = self._open[-1], self._keys[-1]
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif key is None:
            self._keys[-1] = self._key(node)
        else:
            self._keys[-1] = None
            self._enter(parent, key, node)

    def _key(self, node: Node) -> Text:
        if isinstance(node, Scalar) and node.kind == "text" and node.text:
            return node.text
        if node.kind:
            found = "empty text" if node.kind == "text" else node.kind
            self._diagnostics.add(
                "bad-key", node.span, f"a key must be a name, not {found}", "write a name, in quotes if necessary"
            )
        return Text("", node.span)

    def _enter(self, parent: Mapping, key: Text, node: Node) -> None:
        firsts = self._firsts[-1]
        if key not in parent.entries:
            parent.entries[key] = node
            if firsts:
                firsts[key] = key
        elif key:
            if not firsts:
                firsts |= {known: known for known in parent.entries}
            self._diagnostics.add(
                "duplicate-key",
                key,
                f'the key "{key}" is repeated',
                f"remove one of the two: the first is on line {firsts[key].span.line}",
            )


def _extras(event: yaml.NodeEvent) -> Iterator[tuple[str, str]]:
    if isinstance(event, yaml.AliasEvent):
        yield "yaml-alias", "write the value here again"
        return
    if event.anchor:
        yield "yaml-anchor", "remove it: only an alias would need it"
    if getattr(event, "tag", None):
        yield "yaml-tag", "remove it: every value is text, a boolean, a number, a list or a mapping"


def read(path: Path) -> Source:
    """Read the text of a catalogue.

    Raises:
        DiagnosticError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(
            path,
            "there is no such file",
            "name the catalogue with --catalogue PATH, or start one with `d9d-catalogue init`",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unreadable(path, f"the file cannot be read: {reason}", "check its path and permissions") from None
    if len(content) > _MAX_BYTES:
        raise _unreadable(
            path, f"the file is larger than {_MAX_BYTES >> 20} MiB", "check that this is a catalogue, or split it"
        )
    try:
        return Source(path, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8: line {line} contains the byte 0x{content[error.start]:02x}"
        raise _unreadable(path, message, "save it as UTF-8") from None


def _unreadable(path: Path, message: str, remedy: str) -> DiagnosticError:
    return DiagnosticError([Diagnostic(path, "unreadable", message, remedy)])
