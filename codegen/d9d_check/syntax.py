"""Questions about the text of a program, for rules that must be sure that something is mentioned nowhere."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from d9d_check.lower import Node
from d9d_check.source import Module

_COMPUTED: Final = frozenset({"getmembers", "dir", "vars", "methodcaller", "attrgetter", "__dict__"})
"""What finds attributes by names that are not in the text."""


_LENGTHS: Final = {
    "call": 5,
    "name": 3,
    "attribute": 4,
    "constant": 3,
    "assign": 3,
    "annotate": 4,
    "augment": 3,
    "expression": 3,
    "item": 4,
    "comprehension": 5,
    "for": 6,
    "if": 5,
    "compare": 3,
    "formatted": 3,
}


def kind_of(node: list[Any]) -> str:
    """Return the kind of an expression or statement; an empty text for any other list.

    A keyword argument is a list of its name and its value, and its name may be that of a kind.
    """
    kind = node[0] if node else ""
    return kind if isinstance(kind, str) and len(node) >= _LENGTHS.get(kind, 1) else ""


def parts_of(node: Any) -> Iterator[Node]:
    """Yield an expression or statement, or those of a list, with all their parts."""
    pending: list[Any] = [node]
    while pending:
        each = pending.pop()
        if isinstance(each, list):
            if kind_of(each):
                yield each
            pending += each


def last_name(node: Any) -> str:
    """Return the last part of a dotted name; an empty text for any other expression."""
    kind = kind_of(node) if isinstance(node, list) else ""
    return str(node[1]) if kind == "name" else str(node[2]) if kind == "attribute" else ""


def functions_of(modules: Sequence[Module]) -> Iterator[tuple[Module, dict[str, Any]]]:
    """Yield the functions of a program, nested ones and lambdas included."""
    for module in modules:
        for function in (module.summary or {}).get("functions", ()):
            yield module, function


def outside_functions(module: Module) -> Iterator[Any]:
    """Yield what a module has outside its functions: its own body, those of classes, decorators and defaults."""
    summary = module.summary or {}
    yield summary.get("body", [])
    for each in summary.get("classes", ()):
        yield from (each["body"], each["decorators"], each["bases"], each["keywords"])
    for function in summary.get("functions", ()):
        yield from (function["decorators"], [default for *_, default in function["parameters"] if default])


def is_mentioned(name: str, modules: Sequence[Module], ignores: Callable[[Module, dict[str, Any], Node], bool]) -> bool:
    """Return whether a program mentions a name, as a name, an attribute or a text, or may compute it.

    Args:
        name: The name.
        modules: The program.
        ignores: Whether a mention in a function does not count.
    """
    for module in modules:
        if module.may_mention(name) and any(
            _is_mention(part, name) for each in outside_functions(module) for part in parts_of(each)
        ):
            return True
    for module, function in functions_of(modules):
        mentioned = function["mentions"]
        if not _COMPUTED.isdisjoint(mentioned) or ("getattr" in mentioned and _has_computed_name(function)):
            return True
        if module.may_mention(name):
            parts = [part for part in parts_of(function["body"]) if _is_mention(part, name)]
            if any(not ignores(module, function, part) for part in parts):
                return True
    return False


def _is_mention(part: Node, name: str) -> bool:
    return last_name(part) == name or (part[0] == "constant" and part[1] == name)


def _has_computed_name(function: dict[str, Any]) -> bool:
    """Return whether a function gets an attribute whose name is not in the text."""
    calls = (part for part in parts_of(function["body"]) if part[0] == "call" and part[1][:2] == ["name", "getattr"])
    return any(len(call[2]) < 2 or call[2][1][0] != "constant" for call in calls)  # noqa: PLR2004 -- an object, a name
