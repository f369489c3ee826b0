"""What holds for any program: no fault of the checker, and the same results from the cache as without it."""

import ast
import json
import tempfile
from pathlib import Path
from typing import Any

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


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
_EVENT = "lab.events.lab.EVENT_LAB_SAVED"
_USE = """
from d9d import TrainTask, subscribe, subscribe_annotated
from lab.events.lab import EVENT_LAB_SAVED, EVENT_LAB_LOADED, EventLabContext
class Task(TrainTask):
    def register_events(self, ctx):
        subscribe_annotated(ctx.event_bus, self)
    @subscribe(EVENT_LAB_SAVED)
    def on_saved(self, ctx: EventLabContext):
        print(ctx.first, self.late)
    @subscribe(EVENT_LAB_LOADED)
    def on_loaded(self, ctx: EventLabContext):
        self.late = ctx.second
"""


def messages(folder: Path) -> list[str]:
    return [each.message for each in check([folder], use_cache=False).diagnostics]


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "version": st.just(1),
            "events": st.dictionaries(
                st.sampled_from([_EVENT, _EVENT.replace("SAVED", "LOADED"), "x"]),
                st.fixed_dictionaries(
                    dict.fromkeys(("id", "context", "phase", "repeats", "ends", "after"), _JSON),
                    optional={"module": st.just("lab")},
                ),
            ),
            "modules": st.fixed_dictionaries({"lab": st.fixed_dictionaries({"phases": _JSON, "lifecycle": _JSON})}),
            "contexts": st.fixed_dictionaries({"lab.events.lab.EventLabContext": _JSON}),
            "aliases": _JSON,
        }
    )
    | _JSON
)
def test_any_index_is_read_without_a_fault(index: Any) -> None:
    """Whatever is in it: a checkout may come from anybody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text('[tool.d9d]\ncatalogues = ["events.yaml"]\n')
        (folder / "events.yaml").write_text("package: lab.events\n")
        (folder / "task.py").write_text(_USE)
        (folder / "lab" / "events").mkdir(parents=True)
        (folder / "lab" / "events" / "index.json").write_text(json.dumps(index))

        assert [message for message in messages(folder) if "report it" in message] == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")), st.booleans())
def test_any_settings_are_read_without_a_fault(content: bytes, has_table: bool) -> None:  # noqa: FBT001 -- hypothesis passes it
    """Bytes, text, and any text after the head of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_bytes(b"[tool.d9d]\ncatalogues = " + content if has_table else content)
        (folder / "task.py").write_text("")

        assert [message for message in messages(folder) if "report it" in message] == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_source_is_read_without_a_fault(content: bytes) -> None:
    """Bytes that are no text included."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "source.py").write_bytes(content)

        assert [message for message in messages(Path(name)) if "report it" in message] == []


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "cells": st.lists(
                st.fixed_dictionaries(
                    {"cell_type": st.just("code") | _JSON, "source": st.lists(st.text(max_size=20)) | _JSON}
                )
            )
        }
    )
    | _JSON
)
def test_any_notebook_is_read_without_a_fault(book: Any) -> None:
    """With cells that lack what they should have, or with anything else."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "book.ipynb").write_text(json.dumps(book))

        assert [message for message in messages(Path(name)) if "report it" in message] == []
