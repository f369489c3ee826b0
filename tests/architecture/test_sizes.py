"""Files and functions stay as small as the house wants them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES_OF_FILE = 250
MAX_LINES_OF_FUNCTION = 40
GENERATED = ROOT / "d9d" / "loop" / "event" / "catalogue"


def written_files() -> list[Path]:
    """Return all files of the two packages that people write."""
    files = [*(ROOT / "d9d").rglob("*.py"), *(ROOT / "codegen" / "d9d_codegen").rglob("*.py")]
    return sorted(path for path in files if not path.is_relative_to(GENERATED))


def num_lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    assert function.end_lineno is not None
    num_lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        num_lines -= docstring.end_lineno - docstring.lineno + 1
    return num_lines


@pytest.mark.parametrize("path", written_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_small_and_so_are_its_functions(path: Path) -> None:
    """Under 250 lines a file, and under 40 lines a function without its docstring."""
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    assert len(text.splitlines()) < MAX_LINES_OF_FILE
    assert {function.name for function in functions if num_lines_of(function) >= MAX_LINES_OF_FUNCTION} == set()


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "helper", "misc", "common_utils"])
def test_no_file_is_named_after_nothing(name: str) -> None:
    """One concept a file, named by its noun."""
    assert [path for path in written_files() if path.stem == name] == []
