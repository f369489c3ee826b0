"""Docstrings: any text as Python source that reads back as that text and passes the formatter and the linter."""

import re
from collections.abc import Iterable, Iterator
from textwrap import dedent
from typing import Final

from d9d_codegen.diagnostic import is_invisible, width_of
from d9d_codegen.render.markdown import list_marker

_SENTENCE_END: Final = re.compile(r"(?<=[.?!]) ")
_QUOTES: Final = re.compile('"{3,}')
_WORD: Final = re.compile(" *[^ ]+")
_SECTION: Final = re.compile(
    r"""(args|arguments|attention|attributes|caution|danger|error|examples?|extended\ summary|hint|important
    |keyword\ arg(ument)?s|methods|notes?|other\ parameters|parameters|raises|receives|references|returns?|see\ also
    |short\ summary|tip|todo|warnings?|warns|yields?):?""",
    re.VERBOSE | re.IGNORECASE,
)
_SECTION_CODES: Final = ("D214", "D405", "D410", "D411", "D412", "D414", "D416")


class Docstring:
    """The source of one docstring.

    Args:
        text: Its text.
        attributes: Names and their meanings, for an `Attributes:` section below the text.
        indent: The number of spaces before it.
        width: The longest line allowed, where the text has spaces to break at.
    """

    def __init__(self, text: str, attributes: Iterable[tuple[str, str]] = (), indent: int = 0, width: int = 88) -> None:
        self._margin = " " * indent
        self._width = width
        attributes = [(name, _tidy(meaning)) for name, meaning in attributes]
        text = _tidy(text)
        whole = "\n".join([text, *(meaning for _, meaning in attributes)])
        self._raw = _may_be_raw(whole, alone=not attributes)
        self._prefix = 'r"""' if self._raw else '"""'
        self._closes_below = False
        self._summary, self._body = self._layout(text, attributes)

    def __str__(self) -> str:
        """Return the source, with the indentation before each line but the first."""
        if not self._closes_below:
            return f'{self._prefix}{self._summary}"""'
        lines = [line and self._margin + line for line in self._body]
        return "\n".join([self._prefix + self._summary, *lines, self._margin + '"""'])

    def lint_codes(self) -> set[str]:
        """Return the pydocstyle codes that the text, as typed, violates."""
        codes = set()
        if self._summary[-1] not in ".?!":
            codes.add("D415")
        if self._body and self._body[0]:
            codes.add("D205")
        lines = [self._summary, *(line.strip() for line in self._body if line != "Attributes:")]
        if any(_SECTION.fullmatch(line) for line in lines):
            codes.update(_SECTION_CODES)
        return codes

    def _layout(self, text: str, attributes: list[tuple[str, str]]) -> tuple[str, list[str]]:
        first, *others = self._escape(text, opens=True, closes=not attributes).split("\n")
        room = self._width - len(self._margin) - len(self._prefix)
        if width_of(first) > room:
            first, rest = _break_after_sentence(first, room)
            others = [*rest, *others]
        self._closes_below = bool(others or attributes or width_of(first) > room - len('"""'))
        body = [line for other in others for line in wrap(other, self._width - len(self._margin))]
        if attributes:
            body += ["", "Attributes:"]
        for name, meaning in attributes:
            body += self._attribute(name, self._escape(meaning))
        return first, body

    def _attribute(self, name: str, meaning: str) -> Iterator[str]:
        first, *others = meaning.split("\n")
        room = self._width - len(self._margin)
        yield from wrap(f"    {name}: {first}", room, hanging=4)
        for other in others:
            yield from wrap(other and f"        {other}", room)

    def _escape(self, text: str, *, opens: bool = False, closes: bool = False) -> str:
        if self._raw:
            return text
        leading = len(text) - len(text.lstrip('"')) if opens else 0
        trailing = len(text) - len(text.rstrip('"')) if closes and leading < len(text) else 0
        inner = text[leading : len(text) - trailing].replace("\\", r"\u005c")
        escaped = r"\u0022" * leading + _QUOTES.sub(_escaped_quotes, inner) + r"\u0022" * trailing
        if escaped.isprintable():
            return escaped
        return "".join(_escaped(char) if is_invisible(char) and char != "\n" else char for char in escaped)


def wrap(line: str, width: int, hanging: int = 0) -> list[str]:
    """Break a line at its spaces; words stay whole, and the lines of an item of a list begin below each other.

    Args:
        line: The line, with its indentation.
        width: The longest line allowed.
        hanging: The additional indentation of all lines but the first.
    """
    marker = list_marker(line)
    if marker is not None and not hanging:
        hanging = len(marker.lstrip(" "))
    indentation = " " * (len(line) - len(line.lstrip(" ")))
    first, *others = _WORD.findall(line.rstrip(" ")) or [""]
    lines, current = [], [first]
    room = width - width_of(first)
    for word in others:
        room -= width_of(word)
        if room < 0:
            lines.append("".join(current))
            word = indentation + " " * hanging + word.lstrip(" ")  # noqa: PLW2901 -- the break replaces the spaces
            room = width - width_of(word)
            current = []
        current.append(word)
    return [*lines, "".join(current)]


def _break_after_sentence(line: str, room: int) -> tuple[str, list[str]]:
    """Break a long first line after its first sentence, with a blank line below, if that sentence fits."""
    match = _SENTENCE_END.search(line)
    if match and width_of(line[: match.start()]) <= room:
        return line[: match.start()], ["", line[match.end() :].lstrip(" ")]
    first, *rest = wrap(line, room)
    return first, [" ".join(rest)] if rest else []


def _tidy(text: str) -> str:
    """Return a text without trailing spaces and common indentation."""
    first, line_break, rest = text.strip().expandtabs(4).partition("\n")
    lines = [line.rstrip(" ") for line in (first + line_break + dedent(rest)).split("\n")]
    return "\n".join(lines)


def _may_be_raw(text: str, *, alone: bool) -> bool:
    if "\\" not in text or '"""' in text or text.startswith('"'):
        return False
    if alone and text.endswith(('"', "\\")):
        return False
    return not any(is_invisible(char) for char in text if char != "\n")


def _escaped_quotes(quotes: re.Match[str]) -> str:
    """Return three or more quotes in the one form that neither ends a docstring nor violates a lint rule."""
    triples, rest = divmod(len(quotes[0]), 3)
    return r"\"\"\"" * triples + r"\u0022" * rest


def _escaped(char: str) -> str:
    number = f"{ord(char):04x}"
    return f"\\u{number}" if len(number) == len("0000") else f"\\U{number:>08}"
