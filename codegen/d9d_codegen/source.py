"""The text of a catalogue, and the places in it."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what YAML 1.1 takes for the end of a line


class Span(NamedTuple):
    """A place in a catalogue: so many characters from a line and a column on, both counted from 1."""

    line: int
    column: int
    length: int


START = Span(1, 1, 1)


class Text(str):
    """A piece of text of a catalogue that knows where it stands; empty where it was missing or was refused."""

    __slots__ = ("span",)

    span: Span

    def __new__(cls, value: str, span: Span) -> Self:
        """Make the text `value`, standing at `span`."""
        text = super().__new__(cls, value)
        text.span = span
        return text


@dataclass(frozen=True)
class Source:
    """The text of one catalogue.

    Attributes:
        path: The catalogue's path, as the user named it.
        text: Everything in it.
    """

    path: Path
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text, without their ends."""
        return _LINE_BREAK.split(self.text)

    def line(self, number: int) -> str:
        """Return the line of this number, counted from 1; nothing past the end of the text."""
        return self.lines[number - 1] if number <= len(self.lines) else ""

    def span(self, start: tuple[int, int], end: tuple[int, int]) -> Span:
        """Return the span of a node, cut at the end of its first line.

        Args:
            start: Line and column, counted from 0, of its first character.
            end: The same of the character after its last.
        """
        line, column = start
        last = end[1] if end[0] == line else len(self.line(line + 1).rstrip())
        return Span(line + 1, column + 1, max(1, last - column))

    def within(self, text: Text, offset: int, length: int) -> Span:
        """Return the place of a part of a text; that of all of it where the file shows the text in another form.

        Args:
            text: A text of this catalogue.
            offset: Where the part begins in the text.
            length: How long the part is.
        """
        line, column, shown = text.span
        start = self.line(line)[column - 1 : column - 1 + shown].find(text)
        return text.span if start < 0 else Span(line, column + start + offset, length)
