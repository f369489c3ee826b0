"""What the command prints: diagnostics for people, for programs, for code scanning and for GitHub."""

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_check.codes import CODES, UNCHECKED
from d9d_check.source import Module

_LINE: Final = re.compile(r"\bline (\d+)(?! of )\b")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_IGNORED: Final = re.compile(r"#\s*(type|d9d):\s*ignore(?:\[([^\]]*)\])?")


@dataclasses.dataclass(frozen=True, order=True)
class Diagnostic:
    """Something that is reported.

    Attributes:
        path: The file, as the user named it.
        cell: The number of the cell in a notebook; 0 in other files.
        line: The line, counted from 1; in a notebook, within its cell. 0 where the whole file is meant.
        column: The column, counted from 1.
        end_line: The last line.
        end_column: The column after the last character.
        code: The code.
        message: What is wrong, and what to do.
    """

    path: str
    cell: int
    line: int
    column: int
    end_line: int
    end_column: int
    code: str
    message: str

    @property
    def severity(self) -> str:
        """Whether it is an "error" or a "note"."""
        return "note" if self.code == UNCHECKED else "error"

    @property
    def place(self) -> str:
        """The place as editors read it."""
        cell = f":cell {self.cell}" if self.cell else ""
        position = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.path}{cell}{position}"


def locate(
    module: Module, position: Sequence[int], code: str, message: str, ignored_by: Collection[str]
) -> Diagnostic | None:
    """Return the diagnostic for a place in a file; `None` where a comment on its line ignores the code."""
    line, column, end_line, end_column = position
    lines = _LINE_END.split(module.text)  # as Python counts lines
    text = lines[line - 1] if line <= len(lines) else ""
    if _is_ignored(text, code, ignored_by):
        return None
    last = lines[end_line - 1] if end_line <= len(lines) else ""
    cell, before = _cell_of(module, line)
    if module.cells:  # where a message names another line, it means one of the text of all cells
        message = _LINE.sub(lambda match: _in_cell(module, int(match[1])), message)
    return Diagnostic(
        str(module.path),
        cell,
        line - before,
        _column(text, column),
        end_line - before,
        _column(last, end_column),
        code,
        message,
    )


def _cell_of(module: Module, line: int) -> tuple[int, int]:
    """Return the cell of a line of a notebook, and how many lines are before the cell; zeros for other files."""
    return next(((number, first - 1) for number, first in reversed(module.cells) if first <= line), (0, 0))


def _in_cell(module: Module, line: int) -> str:
    cell, before = _cell_of(module, line)
    return f"line {line - before} of cell {cell}"


def whole_file(path: str, code: str, message: str) -> Diagnostic:
    """Return a diagnostic about a whole file."""
    return Diagnostic(path, 0, 0, 0, 0, 0, code, message)


def _column(line: str, offset: int) -> int:
    """Return the column of an offset in bytes of UTF-8."""
    return len(line.encode()[: max(offset, 0)].decode(errors="replace")) + 1


def _is_ignored(line: str, code: str, ignored_by: Collection[str]) -> bool:
    for kind, codes in _IGNORED.findall(line):
        named = {each.strip() for each in codes.split(",")} if codes else set()
        if kind in ignored_by and (not named or code in named):
            return True
    return False


def as_text(diagnostics: Sequence[Diagnostic]) -> str:
    """Return diagnostics for people, one a line."""
    return "".join(f"{each.place}: {each.severity}: {each.message}  [{each.code}]\n" for each in diagnostics)


def as_json(diagnostics: Sequence[Diagnostic]) -> str:
    """Return diagnostics for programs: a list of objects."""
    found = [{**dataclasses.asdict(each), "severity": each.severity} for each in diagnostics]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def as_github(diagnostics: Sequence[Diagnostic]) -> str:
    """Return diagnostics as workflow commands, which GitHub shows next to the lines of a change."""
    return "".join(_command(each) + "\n" for each in diagnostics)


def _command(each: Diagnostic) -> str:
    properties: dict[str, object] = {"file": each.path, "title": each.code}
    if each.line and not each.cell:
        properties |= {"line": each.line, "col": each.column, "endLine": each.end_line, "endColumn": each.end_column}
    given = ",".join(f"{key}={_escaped(str(value), ':,')}" for key, value in properties.items())
    kind = "notice" if each.severity == "note" else "error"
    return f"::{kind} {given}::{_escaped(_place_in_notebook(each) + each.message)}"


def _place_in_notebook(each: Diagnostic) -> str:
    """Return where something is in a notebook, for readers that know lines of files only."""
    return f"cell {each.cell}, line {each.line}: " if each.cell else ""


def _escaped(text: str, more: str = "") -> str:
    """Percent-encode the characters that have a meaning in a workflow command."""
    return "".join(f"%{ord(char):02X}" if char in f"%\r\n{more}" else char for char in text)


def as_sarif(diagnostics: Sequence[Diagnostic]) -> str:
    """Return diagnostics in SARIF 2.1.0, for code scanning."""
    rules = [{"id": code, "shortDescription": {"text": meaning}} for code, meaning in CODES.items()]
    run = {
        "tool": {"driver": {"name": "d9d check", "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(each) for each in diagnostics],
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _result(each: Diagnostic) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": Path(each.path).as_posix()}}
    if each.line and not each.cell:
        place["region"] = {
            "startLine": each.line,
            "startColumn": each.column,
            "endLine": each.end_line,
            "endColumn": each.end_column,
        }
    return {
        "ruleId": each.code,
        "level": each.severity,
        "message": {"text": _place_in_notebook(each) + each.message},
        "locations": [{"physicalLocation": place}],
    }


FORMATS: Final[dict[str, Callable[[Sequence[Diagnostic]], str]]] = {
    "text": as_text,
    "json": as_json,
    "sarif": as_sarif,
    "github": as_github,
}
