"""The marks of d9d's own functions, in the code and in the table that the checker reads."""

from pathlib import Path

import d9d_check.marked
from d9d_check.marked import MARKED

from .marked_table import marked, marked_table


def test_the_table_has_the_marks_of_the_code_and_no_others() -> None:
    """A function that is marked, or no longer marked, changes the table: `make generate` writes it."""
    assert marked() == MARKED
    assert Path(d9d_check.marked.__file__).read_text(encoding="utf-8") == marked_table()


def test_what_all_ranks_must_call_is_marked() -> None:
    """Where the docstring says so of a public method of a run."""
    assert {name for name, marks in MARKED.items() if name.startswith("Trainer.") and "collective" in marks} == {
        f"Trainer.{name}" for name in ("evaluate", "export", "load_best", "save", "steps", "train")
    }
