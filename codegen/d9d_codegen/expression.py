"""Python type expressions and literals: read from a catalogue, written as ruff's formatter writes them."""

import ast
import builtins
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

MAX_LENGTH: Final = 1000  # far below what the interpreter's recursion limit allows


class LiteralSyntaxError(Exception):
    """A text is not a Python literal."""


def parse_literal(text: str) -> object:
    """Read a Python literal.

    Raises:
        LiteralSyntaxError: It is not a literal, or not one that can be written out again.
    """
    if len(text) > MAX_LENGTH:
        raise LiteralSyntaxError(f"is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: object = ast.literal_eval(text.strip())
        write_literal(value)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise LiteralSyntaxError("is not a Python literal") from None
    return value


def is_mutable(value: object) -> bool:
    """Return whether a dataclass needs a new default for each instance."""
    return isinstance(value, list | dict | set)


def write_literal(value: object) -> str:
    """Return a literal in the formatter's style.

    Raises:
        LiteralSyntaxError: Python has no literal for the value.
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
            raise LiteralSyntaxError("is not a Python literal")
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


BUILTINS: Final = frozenset(name for name in dir(builtins) if isinstance(getattr(builtins, name), type))
_WITH_VALUES: Final = ("Literal", "Annotated")  # their arguments are values, not types


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a type expression.

    Attributes:
        path: The name, with dots if it has any.
        offset: Its position in the expression, in characters.
    """

    path: str
    offset: int


class TypeSyntaxError(Exception):
    """A text is not a type expression."""

    def __init__(self, reason: str, offset: int | None = None, length: int = 1) -> None:
        """Store the reason, and the position in the expression if it is known."""
        super().__init__(reason)
        self.offset = offset
        self.length = length


@dataclass(frozen=True, slots=True)
class Annotation:
    """A type expression.

    Attributes:
        text: As it was typed.
        names: The names in it, in order, builtins included.
    """

    text: str
    names: tuple[Name, ...]
    _tree: ast.expr

    def evaluate(self, look_up: Callable[[str], Any]) -> Any:
        """Return what the expression evaluates to.

        Args:
            look_up: Returns the object that a dotted name stands for.

        Raises:
            TypeError: Python refuses it, such as arguments of a class that takes none.
        """
        return _evaluate(self._tree, look_up)

    def write(self, spell: Callable[[str], str]) -> str:
        """Return the expression in the formatter's style.

        Args:
            spell: Returns the spelling of a dotted name.
        """
        return _write(self._tree, spell)


@lru_cache(maxsize=4096)
def parse_type(text: str) -> Annotation:
    """Read a type expression.

    Raises:
        TypeSyntaxError: It is not a type expression.
    """
    if len(text) > MAX_LENGTH:
        raise TypeSyntaxError(f"is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise TypeSyntaxError(f"does not parse: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise TypeSyntaxError("does not parse") from None
    names = tuple(_names(tree, text))
    return Annotation(text, names, tree)


def names_in_type(text: str) -> tuple[Name, ...]:
    """Return the names in a type expression; none where it is not valid."""
    try:
        return parse_type(text).names
    except TypeSyntaxError:
        return ()


def _offset(node: ast.expr, text: str) -> int:
    """Return where a node begins, in characters; the parser counts bytes, line by line."""
    before = text.strip().split("\n")[: node.lineno]
    start = len(before[-1].encode()[: node.col_offset].decode())
    return len(text) - len(text.lstrip()) + sum(len(line) + 1 for line in before[:-1]) + start


def _names(node: ast.expr, text: str) -> Iterator[Name]:
    match node:
        case ast.Name() | ast.Attribute():
            yield Name(_dotted(node, text), _offset(node, text))
        case ast.Subscript(value=ast.Name() | ast.Attribute() as value, slice=argument):
            path = _dotted(value, text)
            yield Name(path, _offset(value, text))
            yield from _argument_names(argument, path.rpartition(".")[2], text)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _names(left, text)
            yield from _names(right, text)
        case ast.List(elts=elements):
            for element in elements:
                yield from _names(element, text)
        case ast.Constant(value=None):
            return
        case ast.Constant(value=value) if value is ...:
            return
        case _:
            raise _unexpected(node, text)


def _argument_names(argument: ast.expr, generic: str, text: str) -> Iterator[Name]:
    elements = argument.elts if isinstance(argument, ast.Tuple) else [argument]
    if generic == "Annotated":
        yield from _names(elements[0], text)
    if generic in _WITH_VALUES:
        for element in elements[generic == "Annotated" :]:
            yield from _value_names(element, text)
        return
    if isinstance(argument, ast.Tuple) and not elements:
        return
    for element in elements:
        yield from _names(element, text)


def _value_names(node: ast.expr, text: str) -> Iterator[Name]:
    match node:
        case ast.Attribute():
            yield Name(_dotted(node, text), _offset(node, text))
        case ast.Constant(value=str() | bytes() | int() | None):
            return
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            return
        case _:
            raise _unexpected(node, text)


def _unexpected(node: ast.expr, text: str) -> TypeSyntaxError:
    what = "is not a type: a type consists of names, [...], | and None"
    if isinstance(node, ast.Constant):
        what = f"contains the value {node.value!r} where a type is expected"
    length = len(ast.get_source_segment(text.strip(), node) or "")
    return TypeSyntaxError(what, _offset(node, text), length)


def _dotted(node: ast.expr, text: str) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{_dotted(value, text)}.{attribute}"
        case _:
            raise _unexpected(node, text)


def _evaluate(node: ast.expr, look_up: Callable[[str], Any]) -> Any:
    match node:
        case ast.Name() | ast.Attribute():
            return look_up(_dotted(node, ""))
        case ast.Subscript(value=value, slice=argument):
            return _evaluate(value, look_up)[_evaluate(argument, look_up)]
        case ast.BinOp(left=left, right=right):
            return _evaluate(left, look_up) | _evaluate(right, look_up)
        case ast.Tuple(elts=elements):
            return tuple(_evaluate(element, look_up) for element in elements)
        case ast.List(elts=elements):
            return [_evaluate(element, look_up) for element in elements]
        case _:
            return ast.literal_eval(node)


def _write(node: ast.expr, spell: Callable[[str], str]) -> str:
    match node:
        case ast.Name() | ast.Attribute():
            written = spell(_dotted(node, ""))
        case ast.Subscript(value=value, slice=argument):
            written = f"{_write(value, spell)}[{_write(argument, spell)}]"
        case ast.BinOp(left=left, right=right):
            grouped = f"({_write(right, spell)})" if isinstance(right, ast.BinOp) else _write(right, spell)
            written = f"{_write(left, spell)} | {grouped}"
        case ast.Tuple(elts=elements):
            joined = ", ".join(_write(element, spell) for element in elements)
            written = f"{joined}," if len(elements) == 1 else joined or "()"
        case ast.List(elts=elements):
            written = f"[{', '.join(_write(element, spell) for element in elements)}]"
        case ast.Constant(value=value) if value is ...:
            written = "..."
        case _:
            written = write_literal(ast.literal_eval(node))
    return written


def split(path: str) -> tuple[str, str, str]:
    """Split a dotted path at its first class, which is recognised by its capital letter.

    Returns:
        The module, the name to import from it, and the rest, including its leading dot.
    """
    first, *others = path.split(".")
    position = next((index for index, part in enumerate(others) if part[0].isupper()), len(others) - 1)
    module = ".".join([first, *others[:position]])
    rest = others[position + 1 :]
    return module, others[position], "".join(f".{part}" for part in rest)
