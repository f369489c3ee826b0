"""How the type of a field has changed: whether it allows more values than before, or fewer."""

import ast
import builtins
from enum import Enum
from typing import Final

_ANY: Final = "typing.Any"
_OBJECT: Final = "object"
_UNIONS: Final = {f"{module}.Union" for module in ("typing", "typing_extensions")}
_OPTIONALS: Final = {f"{module}.Optional" for module in ("typing", "typing_extensions")}
_LITERALS: Final = {f"{module}.Literal" for module in ("typing", "typing_extensions")}
_ANNOTATED: Final = {f"{module}.Annotated" for module in ("typing", "typing_extensions")}
_PROMOTED: Final = {("int", "float"), ("bool", "float"), ("int", "complex"), ("float", "complex"), ("bool", "complex")}


class Relation(Enum):
    """The relation of a new type to the old one."""

    SAME = "same"
    WIDENED = "widened"
    NARROWED = "narrowed"
    CHANGED = "changed"


def relation(old: str, new: str) -> Relation:
    """Compare two type expressions whose names have the same meaning.

    Both are treated as sets of alternatives. Arguments of generics are not compared: `list[bool]` is not a `list[int]`,
    and a catalogue does not say whether another generic is covariant.
    """
    try:
        before, after = _members(_parse(old)), _members(_parse(new))
    except (SyntaxError, ValueError, RecursionError):
        return Relation.SAME if old.split() == new.split() else Relation.CHANGED
    is_wider = _covers(after, before)
    is_narrower = _covers(before, after)
    if is_wider and is_narrower:  # Any and object hold the same values, but only Any can be used without a check
        return Relation.WIDENED if _ANY in before and _ANY not in after else Relation.SAME
    if is_wider:
        return Relation.WIDENED
    return Relation.NARROWED if is_narrower else Relation.CHANGED


def _parse(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _members(node: ast.expr) -> frozenset[str]:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _members(left) | _members(right)
        case ast.Subscript(value=value, slice=argument):
            return _subscript_members(ast.unparse(value), argument)
        case _:
            return frozenset([_text(node)])


def _subscript_members(generic: str, argument: ast.expr) -> frozenset[str]:
    elements = argument.elts if isinstance(argument, ast.Tuple) else [argument]
    if generic in _UNIONS:
        return frozenset().union(*map(_members, elements))
    if generic in _OPTIONALS:
        return _members(argument) | {"None"}
    if generic in _ANNOTATED and elements:
        return _members(elements[0])
    if generic in _LITERALS:
        return frozenset(f"Literal[{ast.unparse(element)}]" for element in elements)
    return frozenset([f"{generic}[{_text(argument)}]"])


def _text(node: ast.expr) -> str:
    """Return an expression in canonical form, with unions in alphabetical order."""
    match node:
        case ast.BinOp() | ast.Subscript():
            return " | ".join(sorted(_members(node)))
        case ast.Tuple(elts=elements):
            return ", ".join(map(_text, elements))
        case ast.List(elts=elements):
            return f"[{', '.join(map(_text, elements))}]"
        case _:
            return ast.unparse(node)


def _covers(wide: frozenset[str], narrow: frozenset[str]) -> bool:
    return all(any(_is_kind_of(member, other) for other in wide) for member in narrow)


def _is_kind_of(member: str, other: str) -> bool:
    if member == other or other in (_ANY, _OBJECT) or (member, other) in _PROMOTED:
        return True
    one, two = getattr(builtins, member, None), getattr(builtins, other, None)
    return isinstance(one, type) and isinstance(two, type) and issubclass(one, two)
