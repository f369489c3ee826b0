"""Python literals: read from a catalogue, written as the formatter would write them."""

import ast
import math
import warnings
from typing import Final

MAX_LENGTH: Final = 1000  # keeps every literal far from the limits of the interpreter's recursion


class LiteralSyntaxError(Exception):
    """A text is no Python literal."""


def parse_literal(text: str) -> object:
    """Read a Python literal.

    Raises:
        LiteralSyntaxError: It is none, or none that can be written out again.
    """
    if len(text) > MAX_LENGTH:
        raise LiteralSyntaxError(f"is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: object = ast.literal_eval(text.strip())
        write_literal(value)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise LiteralSyntaxError("is no Python literal") from None
    return value


def is_mutable(value: object) -> bool:
    """Return whether a dataclass must make a default anew for each instance."""
    return isinstance(value, list | dict | set)


def write_literal(value: object) -> str:
    """Return a literal in the formatter's style.

    Raises:
        LiteralSyntaxError: Python has no literal for such a value.
    """
    match value:
        case None | bool() | int():
            written = repr(value)
        case float() if math.isfinite(value):
            written = repr(value).replace("e+", "e")
        case str() | bytes():
            written = _quoted(value)
        case tuple():
            written = f"({_joined(value)}{',' if len(value) == 1 else ''})"
        case list():
            written = f"[{_joined(value)}]"
        case set():
            written = f"{{{', '.join(sorted(map(write_literal, value)))}}}" if value else "set()"
        case dict():
            written = "{" + ", ".join(f"{write_literal(k)}: {write_literal(v)}" for k, v in value.items()) + "}"
        case _:
            raise LiteralSyntaxError("is no Python literal")
    return written


def _joined(values: tuple[object, ...] | list[object]) -> str:
    return ", ".join(map(write_literal, values))


def _quoted(value: str | bytes) -> str:
    text = repr(value)
    prefix = "b" if isinstance(value, bytes) else ""
    quote = text[-1]
    body = text[len(prefix) + 1 : -1].replace(f"\\{quote}", quote)
    best = '"' if body.count('"') <= body.count("'") else "'"
    return prefix + best + body.replace(best, f"\\{best}") + best
