"""Docs as Markdown: inline code, emphasis, links and lists come through, and nothing else does.

A doc is typed by anyone who can edit a catalogue, and becomes a part of a page: it must not inject HTML, load an image,
end the table that it is in, or turn into a heading. What is not one of the four things above is escaped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from d9d_codegen.diagnostic import is_invisible

_ITEM: Final = re.compile(r"( *)(?:([-*+])|(\d{1,9})([.)])) +(?=\S)")
_BLOCK: Final = re.compile(r"(?:([#+=:>-])|(\d{1,9})([.)]))|[*_](?=[*_ ]*$)")  # a heading, a quotation, a rule, a list
_TICKS: Final = re.compile("`+")
_PUNCTUATION: Final = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_ESCAPED: Final = frozenset("[]|~$`")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LINK: Final = re.compile(
    r"\[((?:[^\[\]\\`]|\\.|`[^`]*`)+)\]\(([^\s()<>|\"'`\\]+)(?:\s+\"([^\"<>|&`\\]*)\")?\)", re.DOTALL
)
_SAFE: Final = ("http", "https", "mailto")


def prose(text: str) -> str:
    """Return a doc as Markdown blocks."""
    return "\n\n".join(_rendered(block) for block in _Blocks(text).found)


def cell(text: str) -> str:
    """Return a doc as one line of Markdown, for a table; the items of a list have a line break between them."""
    lines = [line for block in _Blocks(text).found for line in block.lines()]
    return "<br>".join(lines)


def code(text: str) -> str:
    """Return a text as inline code, for tables too."""
    longest = max(map(len, _TICKS.findall(text)), default=0)
    fence = "`" * (longest + 1)
    inner = " ".join(text.split()).replace("|", "\\|")
    return f"{fence} {inner} {fence}" if longest else f"{fence}{inner}{fence}"


def list_marker(line: str) -> str | None:
    """Return the indentation and the marker of a line that begins an item of a list, with the spaces behind it."""
    match = _ITEM.match(line)
    return match[0] if match else None


@dataclass(slots=True)
class _Item:
    """An item of a list.

    Attributes:
        depth: How many items it is within.
        marker: The marker: `-`, or a number with a dot.
        text: What it says.
    """

    depth: int
    marker: str
    text: str


@dataclass(slots=True)
class _Block:
    """A paragraph, or a list.

    Attributes:
        text: The text of a paragraph.
        items: The items of a list.
    """

    text: str = ""
    items: list[_Item] | None = None

    def lines(self) -> Iterator[str]:
        """Yield the lines of a cell."""
        if self.items is None:
            yield inline(self.text, is_cell=True)
            return
        for item in self.items:
            bullet = "•" if item.marker == "-" else item.marker.replace(".", "\\.")
            yield "&nbsp;" * (4 * item.depth) + f"{bullet} {inline(item.text, is_cell=True)}"


class _Blocks:
    """The paragraphs and lists of a doc.

    Args:
        text: The doc.
    """

    def __init__(self, text: str) -> None:
        self.found: list[_Block] = []
        self._is_apart = True  # whether the line before was empty
        self._indents: list[int] = []  # of the items that the current one is within
        for line in text.strip().expandtabs(4).split("\n"):
            self._add(line)

    def _add(self, line: str) -> None:
        match = _ITEM.match(line)
        stripped = line.strip(" ")
        items = self.found[-1].items if self.found else None
        if not stripped:
            self._is_apart = True
            return
        if match and not _is_rule(stripped):
            self._add_item(match, line)
        elif items and (line.startswith(" ") or not self._is_apart):
            items[-1].text += f"\n{stripped}"
        elif items is not None or self._is_apart:
            self.found.append(_Block(stripped))
        else:
            self.found[-1].text += f"\n{stripped}"
        self._is_apart = False

    def _add_item(self, match: re.Match[str], line: str) -> None:
        if not self.found or self.found[-1].items is None:
            self.found.append(_Block(items=[]))
            self._indents = []
        while self._indents and self._indents[-1] >= len(match[1]):
            self._indents.pop()
        marker = "-" if match[2] else f"{int(match[3])}."
        item = _Item(len(self._indents), marker, line[match.end() :].strip(" "))
        self.found[-1].items = [*(self.found[-1].items or []), item]
        self._indents.append(len(match[1]))


def _is_rule(line: str) -> bool:
    return len(set(line.replace(" ", ""))) == 1 and line[0] in "-*_"


def _rendered(block: _Block) -> str:
    if block.items is None:
        return inline(block.text)
    lines = []
    widths = [0]  # where the text of each depth begins
    for item in block.items:
        del widths[item.depth + 1 :]
        indent = " " * widths[item.depth]
        widths.append(widths[item.depth] + len(item.marker) + 1)
        first, *others = inline(item.text).split("\n")
        lines += [f"{indent}{item.marker} {first}", *(" " * widths[-1] + other for other in others)]
    return "\n".join(lines)


def inline(text: str, *, is_cell: bool = False) -> str:
    """Return a paragraph with inline code, emphasis and links, and everything else escaped.

    Args:
        text: The paragraph.
        is_cell: Whether it is a part of a table: then it becomes one line.
    """
    shown = "".join(_spans(text, is_cell=is_cell))
    if is_cell:
        return " ".join(line.strip(" ") for line in shown.split("\n"))
    return "\n".join(_no_block(line) for line in shown.split("\n"))


def _no_block(line: str) -> str:
    """Return a line that begins no block."""
    match = _BLOCK.match(line)
    if not match:
        return line
    if match[2]:
        return f"{match[2]}\\{line[match.end(2) :]}"
    return f"\\{line}"


def _spans(text: str, *, is_cell: bool) -> Iterator[str]:
    at = 0
    while at < len(text):
        char = text[at]
        if char == "`":
            ticks = _run(text, at, "`")
            end = _closing(text, at + ticks, ticks)
            if end is None:
                yield "\\`" * ticks
                at += ticks
            else:
                yield _code_span(text[at + ticks : end], is_cell=is_cell)
                at = end + ticks
            continue
        link = _LINK.match(text, at) if char == "[" else None
        if link and _is_safe(link[2]) and link[1].strip():
            title = f' "{" ".join(link[3].split())}"' if link[3] else ""
            yield f"[{''.join(_spans(link[1], is_cell=is_cell))}]({link[2]}{title})"
            at = link.end()
            continue
        if char == "!" and text[at + 1 : at + 2] == "[":  # an image
            yield "\\!"
            at += 1
            continue
        if char == "\\" and text[at + 1 : at + 2] in _PUNCTUATION and at + 1 < len(text):
            yield _entity_or(text[at + 1], f"\\{text[at + 1]}")
            at += 2
            continue
        yield _plain(char)
        at += 1


def _run(text: str, at: int, char: str) -> int:
    end = at
    while end < len(text) and text[end] == char:
        end += 1
    return end - at


def _closing(text: str, start: int, ticks: int) -> int | None:
    """Return where a code span with a fence of some backticks ends, if it does and is not empty."""
    for match in _TICKS.finditer(text, start):
        if len(match[0]) == ticks:
            return match.start() if text[start : match.start()].strip() else None
    return None


def _code_span(content: str, *, is_cell: bool) -> str:
    shown = code("".join(_named(char) if is_invisible(char) and char != "\n" else char for char in content))
    return shown if is_cell else shown.replace("\\|", "|")  # outside tables no backslash is needed, and it would show


def _named(char: str) -> str:
    return f"U+{ord(char):04X}"


def _is_safe(target: str) -> bool:
    """Return whether a link leads to a page, a file next to this one, or a heading."""
    if not target.isascii() or not target.isprintable() or target.startswith("//") or re.search(r"&#?\w+;", target):
        return False
    scheme, colon, _ = re.split(r"[/?#]", target, maxsplit=1)[0].partition(":")
    return not colon or scheme.lower() in _SAFE


def _plain(char: str) -> str:
    if char in _ESCAPED:
        return f"\\{char}"
    if char == "\\":
        return "\\\\"
    return _entity_or(char, char)


def _entity_or(char: str, otherwise: str) -> str:
    if is_invisible(char) and char != "\n":
        return f"&#x{ord(char):x};"
    return _ENTITIES.get(char, otherwise)
