"""Diagnostics: what is wrong, where it is, and how to fix it, for people, programs and GitHub.

Also the text of a file with positions in it, and the suggestion of a name for a misspelt one.
"""

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple, Self

_INVISIBLE: Final = frozenset(["Cc", "Cf", "Co", "Zl", "Zp", "Zs"])  # controls, marks, private use, separators
_ARABIC_GAP: Final = range(0xFDD0, 0xFDF0)


def is_forbidden(char: str) -> bool:
    """Return whether a text may not contain a character: a control other than tab and line feed, or a noncharacter.

    What counts does not change when a new version of Unicode assigns more characters, so that every Python generates
    the same files.
    """
    is_no_character = ord(char) & 0xFFFE == 0xFFFE or ord(char) in _ARABIC_GAP  # noqa: PLR2004 -- by definition
    return is_no_character or (unicodedata.category(char) == "Cc" and char not in "\t\n")


def is_invisible(char: str) -> bool:
    """Return whether a reader cannot see a character, other than a plain space, or cannot tell which one it is."""
    return char != " " and unicodedata.category(char) in _INVISIBLE


def width_of(line: str) -> int:
    """Return the number of terminal columns that a line takes."""
    if line.isascii():
        return len(line)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # the line breaks of YAML 1.1


class Span(NamedTuple):
    """A position in a file: a line and a column, both counted from 1, and a length in characters."""

    line: int
    column: int
    length: int


START = Span(1, 1, 1)


class Text(str):
    """A piece of text that knows its position in the file; empty where the value is missing or invalid."""

    __slots__ = ("span",)

    span: Span

    def __new__(cls, value: str, span: Span) -> Self:
        """Make the text `value` at position `span`."""
        text = super().__new__(cls, value)
        text.span = span
        return text


@dataclass(frozen=True)
class Source:
    """The text of a file.

    Attributes:
        path: The file's path, as the user wrote it.
        text: Its whole text.
    """

    path: Path
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text, without line breaks."""
        return _LINE_BREAK.split(self.text)

    def line(self, number: int) -> str:
        """Return a line by its number, counted from 1; an empty text past the end."""
        return self.lines[number - 1] if number <= len(self.lines) else ""

    def span(self, start: tuple[int, int], end: tuple[int, int]) -> Span:
        """Return the position of a node, cut at the end of its first line.

        Args:
            start: Line and column of its first character, counted from 0.
            end: Line and column just after its last character, counted from 0.
        """
        line, column = start
        last = end[1] if end[0] == line else len(self.line(line + 1).rstrip())
        return Span(line + 1, column + 1, max(1, last - column))

    def within(self, text: Text, offset: int, length: int) -> Span:
        """Return the position of a part of a text; that of the whole text where the file spells it differently.

        Args:
            text: A text of this file.
            offset: Where the part begins in the text, in characters.
            length: The length of the part, in characters.
        """
        line, column, shown = text.span
        start = self.line(line)[column - 1 : column - 1 + shown].find(text)
        return text.span if start < 0 else Span(line, column + start + offset, length)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """Something that is wrong.

    Attributes:
        path: The file, as the user would name it.
        rule: The name of the rule that was broken.
        message: What was found.
        remedy: How to fix it.
        span: The position in the file, if there is one.
        line: The line of the file at `span`.
        detail: More text below the message, such as a diff.
        severity: "error", or "warning" or "notice", which do not make the command fail.
    """

    path: Path
    rule: str
    message: str
    remedy: str
    span: Span | None = None
    line: str = ""
    detail: str = ""
    severity: str = "error"


class DiagnosticError(Exception):
    """A command failed.

    Attributes:
        diagnostics: Why, in the order in which they are printed.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__(*(diagnostic.message for diagnostic in self.diagnostics))


class Violation(NamedTuple):
    """What a rule found.

    Attributes:
        at: The key or value that is wrong.
        message: What is wrong with it.
        remedy: How to fix it.
    """

    at: Text | Span
    message: str
    remedy: str


class Diagnostics:
    """Collects the diagnostics of one catalogue."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: list[Diagnostic] = []

    def add(self, rule: str, at: Span | Text, message: str, remedy: str) -> None:
        """Add a diagnostic.

        Args:
            rule: The name of the rule that was broken.
            at: The key or value that is wrong.
            message: What was found.
            remedy: How to fix it.
        """
        span = at.span if isinstance(at, Text) else at
        self._found.append(Diagnostic(self._source.path, rule, message, remedy, span, self._source.line(span.line)))

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._found)

    def in_file_order(self) -> list[Diagnostic]:
        """Return all diagnostics, sorted by position."""
        return sorted(self._found, key=lambda diagnostic: (diagnostic.span or (), diagnostic.rule, diagnostic.message))


def as_text(diagnostics: Iterable[Diagnostic]) -> str:
    """Return diagnostics for people: the source line with a caret, and how to fix it."""
    return "".join(_text(diagnostic) + "\n" for diagnostic in diagnostics)


def as_json(diagnostics: Iterable[Diagnostic]) -> str:
    """Return diagnostics for programs: a list of objects."""
    return json.dumps([_object(diagnostic) for diagnostic in diagnostics], indent=2, ensure_ascii=False) + "\n"


def as_github(diagnostics: Iterable[Diagnostic]) -> str:
    """Return diagnostics as workflow commands, which GitHub shows next to the lines of a change."""
    return "".join(_command(diagnostic) + "\n" for diagnostic in diagnostics)


_MAX_LINE_LENGTH: Final = 400  # a longer line is cut around the position that is shown
_CONTEXT: Final = 80

FORMATS: Final[dict[str, Callable[[Iterable[Diagnostic]], str]]] = {
    "text": as_text,
    "json": as_json,
    "github": as_github,
}


def excerpt(span: Span, line: str) -> list[str]:
    """Return a line of a file, and a line with carets below the given position."""
    number, column, length = span
    start = column - 1 - _CONTEXT if len(line) > _MAX_LINE_LENGTH and column > _CONTEXT else 0
    shown = _shown(line[start : start + _MAX_LINE_LENGTH])
    margin = "".join(char if char == "\t" else " " * width_of(char) for char in shown[: column - 1 - start])
    carets = "^" * max(1, width_of(shown[column - 1 - start :][:length]))
    return [f"{number:5} | {shown}", f"      | {margin}{carets}"]


def _text(diagnostic: Diagnostic) -> str:
    place = str(diagnostic.path)
    lines = []
    if diagnostic.span:
        line, column, _ = diagnostic.span
        place += f":{line}:{column}"
        lines = excerpt(diagnostic.span, diagnostic.line)
    head = f"{_shown(place)}: {diagnostic.severity}[{diagnostic.rule}]: {_shown(diagnostic.message)}"
    return "\n".join([head, *lines, *diagnostic.detail.splitlines(), f"   {_shown(diagnostic.remedy)}"])


def _shown(text: str) -> str:
    """Replace the characters that could confuse a terminal."""
    return "".join("\ufffd" if is_invisible(char) and char != "\t" else char for char in text)


def _object(diagnostic: Diagnostic) -> dict[str, object]:
    line, column, length = diagnostic.span or (None, None, None)
    return {
        "path": str(diagnostic.path),
        "line": line,
        "column": column,
        "length": length,
        "rule": diagnostic.rule,
        "message": diagnostic.message,
        "remedy": diagnostic.remedy,
        "detail": diagnostic.detail,
        **({"severity": diagnostic.severity} if diagnostic.severity != "error" else {}),
    }


def _command(diagnostic: Diagnostic) -> str:
    properties = {"file": str(diagnostic.path), "title": diagnostic.rule}
    if diagnostic.span:
        line, column, length = diagnostic.span
        properties |= {"line": str(line), "col": str(column), "endColumn": str(column + length)}
    given = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{diagnostic.severity} {given}::{_escaped(f'{diagnostic.message}; {diagnostic.remedy}')}"


def _escaped(text: str, more: str = "") -> str:
    """Percent-encode the characters that have a meaning in a workflow command."""
    return "".join(f"%{ord(char):02X}" if char in f"%\r\n{more}" else char for char in text)


_MAX_COMPARED: Final = 50  # so few names are all compared
_NUM_ADJACENT: Final = 12
_NUM_CANDIDATES: Final = 6
_NUM_SHOWN: Final = 10
_CLOSE: Final = 0.6  # difflib's own


class _KnownNames:
    """Known names, sorted by their beginnings and by their ends."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_beginning = sorted(set(map(str, names)))
        self._by_end = (
            sorted(name[::-1] for name in self._by_beginning) if len(self._by_beginning) > _MAX_COMPARED else []
        )
        self._found: dict[tuple[str, float], str | None] = {}

    def closest(self, name: str, cutoff: float) -> str | None:
        """Return the most similar name, if any is similar enough."""
        key = (str(name), cutoff)
        if key not in self._found:
            self._found[key] = next(iter(get_close_matches(name, self._candidates(name), n=1, cutoff=cutoff)), None)
        return self._found[key]

    def _candidates(self, name: str) -> list[str]:
        if not self._by_end:
            return self._by_beginning
        adjacent = {
            *_adjacent(name, self._by_beginning),
            *(other[::-1] for other in _adjacent(name[::-1], self._by_end)),
        }
        return sorted(adjacent, key=lambda other: (-_num_shared(name, other), other))[:_NUM_CANDIDATES]


def closest(name: str, known: Iterable[str], cutoff: float = _CLOSE) -> str | None:
    """Return the known name that a misspelt name most likely means, if any is similar enough.

    Comparing two names letter by letter is slow. Where many names are known, only those are compared that are near the
    misspelt one when all are sorted by their beginnings, or by their ends: a typo leaves one of the two intact.

    Args:
        name: The misspelt name.
        known: The names that exist.
        cutoff: The least similarity, from 0 to 1.
    """
    return _known(tuple(known)).closest(name, cutoff)


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return "did you mean …?" for a close match, or `otherwise` where nothing is close."""
    match = closest(name, known)
    return f'did you mean "{match}"?' if match else otherwise


def some_of(names: Iterable[str]) -> str:
    """Return names for a message: all of a few, the first ten of many."""
    shown = list(names)
    more = ["…"] if len(shown) > _NUM_SHOWN else []
    return ", ".join([*shown[:_NUM_SHOWN], *more])


@lru_cache(maxsize=8)
def _known(names: tuple[str, ...]) -> _KnownNames:
    return _KnownNames(names)


def _adjacent(name: str, ordered: list[str]) -> list[str]:
    at = bisect_left(ordered, name)
    return ordered[max(0, at - _NUM_ADJACENT) : at + _NUM_ADJACENT]


def _num_shared(one: str, other: str) -> int:
    """Return the number of letters that two names share at their beginning and at their end."""
    pairs, reversed_pairs = zip(one, other, strict=False), zip(reversed(one), reversed(other), strict=False)
    return sum(sum(1 for _ in takewhile(_is_same, each)) for each in (pairs, reversed_pairs))


def _is_same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
