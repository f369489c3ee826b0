"""What holds for any program: no fault of the checker, and the same results from the cache as without it."""

import ast
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from d9d_check.check import check

_PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
_STATEMENTS = [
    ast.unparse(statement) for program in _PROGRAMS for statement in ast.parse(program.read_text(encoding="utf-8")).body
]


def scrambled(statements: list[str], cut: int) -> str:
    """Return a program of statements in any order, the first lines of them twice."""
    lines = "\n".join(statements).splitlines()
    head = lines[: cut % (len(lines) + 1)]
    return "\n".join([*head, "", *lines])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(_STATEMENTS), min_size=1, max_size=25), st.integers(0, 200))
def test_any_program_is_checked_without_a_fault_and_alike_from_the_cache(statements: list[str], cut: int) -> None:
    """Names that are missing, classes without their bases, and files that cannot be parsed included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(scrambled(statements, cut), encoding="utf-8")
        (path.parent / "pyproject.toml").write_text("")

        without = check([path], use_cache=False).diagnostics
        cold, warm = check([path]).diagnostics, check([path]).diagnostics

    assert [each.message for each in without if "Please report it" in each.message] == []
    assert without == cold == warm
