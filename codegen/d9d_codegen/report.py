"""Problems in the forms in which people, programs and GitHub read them."""

import json
from collections.abc import Callable, Iterable
from typing import Final

from d9d_codegen.character import is_invisible
from d9d_codegen.docstring import width_of
from d9d_codegen.problem import Problem
from d9d_codegen.source import Span


def as_text(problems: Iterable[Problem]) -> str:
    """Return problems for people: each with its line, a caret below it, and what to do."""
    return "".join(_text(problem) + "\n" for problem in problems)


def as_json(problems: Iterable[Problem]) -> str:
    """Return problems for programs: a list of objects."""
    return json.dumps([_object(problem) for problem in problems], indent=2, ensure_ascii=False) + "\n"


def as_github(problems: Iterable[Problem]) -> str:
    """Return problems as the commands by which GitHub shows them beside the lines of a change."""
    return "".join(_command(problem) + "\n" for problem in problems)


_MAX_LINE_LENGTH: Final = 400  # a longer line is cut around the place that is shown
_CONTEXT: Final = 80

FORMATS: Final[dict[str, Callable[[Iterable[Problem]], str]]] = {
    "text": as_text,
    "json": as_json,
    "github": as_github,
}


def excerpt(span: Span, line: str) -> list[str]:
    """Return a line of a file with a caret below the place in question."""
    number, column, length = span
    start = column - 1 - _CONTEXT if len(line) > _MAX_LINE_LENGTH and column > _CONTEXT else 0
    shown = _shown(line[start : start + _MAX_LINE_LENGTH])
    margin = "".join(char if char == "\t" else " " * width_of(char) for char in shown[: column - 1 - start])
    carets = "^" * max(1, width_of(shown[column - 1 - start :][:length]))
    return [f"{number:5} | {shown}", f"      | {margin}{carets}"]


def _text(problem: Problem) -> str:
    place = str(problem.path)
    lines = []
    if problem.span:
        line, column, _ = problem.span
        place += f":{line}:{column}"
        lines = excerpt(problem.span, problem.line)
    head = f"{_shown(place)}: {problem.severity}[{problem.rule}]: {_shown(problem.message)}"
    return "\n".join([head, *lines, *problem.detail.splitlines(), f"   {_shown(problem.remedy)}"])


def _shown(text: str) -> str:
    """Return a text without what would upset a terminal."""
    return "".join("\ufffd" if is_invisible(char) and char != "\t" else char for char in text)


def _object(problem: Problem) -> dict[str, object]:
    line, column, length = problem.span or (None, None, None)
    return {
        "path": str(problem.path),
        "line": line,
        "column": column,
        "length": length,
        "rule": problem.rule,
        "message": problem.message,
        "remedy": problem.remedy,
        "detail": problem.detail,
        **({"severity": problem.severity} if problem.severity != "error" else {}),
    }


def _command(problem: Problem) -> str:
    properties = {"file": str(problem.path), "title": problem.rule}
    if problem.span:
        line, column, length = problem.span
        properties |= {"line": str(line), "col": str(column), "endColumn": str(column + length)}
    given = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{problem.severity} {given}::{_escaped(f'{problem.message}; {problem.remedy}')}"


def _escaped(text: str, more: str = "") -> str:
    """Return a text with the characters encoded that mean something in a command of GitHub."""
    return "".join(f"%{ord(char):02X}" if char in f"%\r\n{more}" else char for char in text)
