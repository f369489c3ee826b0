"""Parts of a program that share no module are checked on their own, and what is found in them is kept."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d9d_check import check as checking
from d9d_check.check import check

HEAD = """
from d9d.loop.control import TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
from d9d import TrainingConfigurator
"""
LINES = (
    "class Meter:\n    @subscribe(EVENT_TRAIN_STEP_POST)\n    def on_step(self, ctx): ...",
    "class Task(TrainTask):\n    @subscribe(EVENT_TRAIN_STEP_POST)\n    def on_step(self, ctx): ...",
    "configurator = TrainingConfigurator(config, task, provider)",
    "configurator = TrainingConfigurator(config, task, provider, subscribers=[first.Meter()])",
    "def register(bus):\n    subscribe_annotated(bus, package.second.Meter())",
    "import first",
    "import package",
    "from package import second",
    "from package.second import *",
    "from .second import Meter",
    "value = 3",
)
FILES = ("first.py", "other.py", "package/__init__.py", "package/second.py", "package/third.py")


def write(folder: Path, texts: dict[str, list[str]]) -> None:
    """Write the files of a program."""
    for name, lines in texts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(HEAD + "\n".join(lines) + "\n" if lines else "", encoding="utf-8")


@settings(max_examples=25, deadline=None)
@given(
    texts=st.fixed_dictionaries({name: st.lists(st.sampled_from(LINES), max_size=3) for name in FILES}),
    edits=st.lists(st.tuples(st.sampled_from(FILES), st.lists(st.sampled_from(LINES), max_size=3)), max_size=3),
)
def test_after_edits_the_same_is_found_as_without_what_was_kept(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, list[str]], edits: list[tuple[str, list[str]]]
) -> None:
    """Whatever imports what, and whether another part configures a loop."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "pyproject.toml").write_text("")
    write(folder, texts)
    check([folder])

    for name, lines in edits:
        write(folder, {name: lines})

        assert check([folder]).diagnostics == check([folder], use_cache=False).diagnostics


def test_an_edit_runs_only_the_part_of_the_edited_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What shares no module with it is not even read from the folder of what is kept."""
    (tmp_path / "pyproject.toml").write_text("")
    write(tmp_path, {"first.py": [LINES[0]], "user.py": ["import first"], "other.py": [LINES[1]]})
    check([tmp_path])
    parts: list[list[str]] = []
    run = checking._run

    def record(part, *arguments, **named):  # type: ignore[no-untyped-def]
        parts.append([module.key for module in part])
        return run(part, *arguments, **named)

    monkeypatch.setattr(checking, "_run", record)
    write(tmp_path, {"first.py": [LINES[0], "value = 3"]})
    check([tmp_path])

    assert parts == [["first", "user"]]


def test_a_configured_loop_counts_for_all_parts(tmp_path: Path) -> None:
    """What nothing registers is dead in a program that configures a loop, wherever it does."""
    (tmp_path / "pyproject.toml").write_text("")
    write(tmp_path, {"first.py": [LINES[0]], "other.py": ["value = 3"]})
    assert [each.code for each in check([tmp_path]).diagnostics] == ["d9d-unchecked"]

    write(tmp_path, {"other.py": [LINES[2]]})

    assert [each.code for each in check([tmp_path]).diagnostics] == ["d9d-unregistered"]
