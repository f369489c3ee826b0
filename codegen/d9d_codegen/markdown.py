"""Any text as Markdown that shows as that text."""

import re
from typing import Final

from d9d_codegen.character import is_invisible

_SPECIAL: Final = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # within a word an underscore means itself
_BLOCK: Final = re.compile(r"^(?:([#+=:-])|(\d{1,9})([.)]))")  # what begins a heading, a list or a rule
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BACKTICKS: Final = re.compile("`+")


def prose(text: str) -> str:
    """Return a text as paragraphs; its lines stay lines."""
    lines = [_line(line) for line in text.strip().expandtabs(4).split("\n")]
    ends = ["\\" if line and following else "" for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    return "\n".join(line + end for line, end in zip(lines, ends, strict=True))


def cell(text: str) -> str:
    """Return a text as one line, for a table."""
    return "<br>".join(_line(line) for line in text.strip().expandtabs(4).split("\n"))


def code(text: str) -> str:
    """Return a text set as code, for a table too."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * (longest + 1)
    inner = " ".join(text.split()).replace("|", "\\|")
    return f"{fence} {inner} {fence}" if longest else f"{fence}{inner}{fence}"


def anchor(heading: str) -> str:
    """Return the anchor of a heading that is a name."""
    return "#" + heading.lower()


def _line(line: str) -> str:
    stripped = line.lstrip(" ")
    indentation = "&nbsp;" * (len(line) - len(stripped))
    escaped = _SPECIAL.sub(r"\\\g<0>", stripped.rstrip(" "))
    escaped = _BLOCK.sub(lambda match: f"\\{match[1]}" if match[1] else f"{match[2]}\\{match[3]}", escaped)
    return indentation + "".join(_ENTITIES.get(char) or _visible(char) for char in escaped)


def _visible(char: str) -> str:
    return f"&#x{ord(char):x};" if is_invisible(char) else char
