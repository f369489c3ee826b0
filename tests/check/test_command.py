"""The command `d9d check`: its output, its exit status, its cache, and what it does with files that it cannot read."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from d9d.__main__ import main
from d9d_check.check import check
from d9d_check.cli import main as check_main
from d9d_check.framework import Framework
from d9d_check.interpret import Interpreter
from d9d_check.report import as_github, as_sarif
from d9d_check.store import FOLDER

WRONG = """
from d9d.loop.control import TrainTask
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST

class Täsk(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def ön_step(self, ctx): ...
"""
UNVERIFIED = """
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST

@subscribe(EVENT_TRAIN_STEP_POST)
def on_step(ctx): ...
"""

TWICE = """
from d9d.loop.control import RegisterTaskEventsContext
class Double(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext):
        subscribe_annotated(ctx.event_bus, self)
        subscribe_annotated(ctx.event_bus, self)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx): ...
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A file with one mistake."""
    path = tmp_path / "wrong.py"
    path.write_text(WRONG, encoding="utf-8")
    return path


def run(*arguments: str | Path) -> int:
    return check_main([*map(str, arguments), "--no-cache"])


def test_a_mistake_is_printed_with_its_place_and_fails_the_command(
    wrong: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As type checkers print it; columns count characters."""
    assert run(wrong) == 1

    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith(f'{wrong}:7:6: error: "Täsk" never registers its handler "ön_step"')
    assert line.endswith("[d9d-unregistered]")
    assert summary == "1 file checked: 1 error"


def test_the_command_of_d9d_checks(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`d9d check` is the same command."""
    assert main(["check", str(wrong), "--no-cache"]) == 1
    assert "d9d-unregistered" in capsys.readouterr().out


def test_the_command_loads_no_torch() -> None:
    """So its help appears at once."""
    program = "import sys, d9d.__main__ as command; sys.argv = ['d9d', 'check', '--help']\ntry: command.main()\n"
    program += "finally: assert not {'torch', 'mypy', 'd9d.loop'} & sys.modules.keys()"

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: d9d check")


def test_the_hook_for_pre_commit_runs_the_command(wrong: Path) -> None:
    """On the whole project, because another file may decide."""
    hooks = yaml.safe_load((Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    [hook] = [each for each in hooks if each["id"] == "d9d-check"]

    assert hook["pass_filenames"] is False
    program, *arguments = shlex.split(hook["entry"])
    assert program == "d9d"
    assert main([*arguments, str(wrong), "--no-cache"]) == 1


def test_json_has_each_property(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For editors and scripts."""
    assert run(wrong, "--format", "json") == 1

    (found,) = json.loads(capsys.readouterr().out)
    assert found["path"] == str(wrong)
    assert (found["line"], found["column"], found["end_line"], found["end_column"]) == (7, 6, 7, 38)
    assert (found["code"], found["severity"]) == ("d9d-unregistered", "error")


def test_sarif_names_the_rule_and_the_region(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For code scanning."""
    assert run(wrong, "--format", "sarif") == 1

    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    (sarif_run,) = content["runs"]
    (result,) = sarif_run["results"]
    assert content["version"] == "2.1.0"
    assert result["ruleId"] in {rule["id"] for rule in sarif_run["tool"]["driver"]["rules"]}
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 7


def test_github_shows_it_at_the_line(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a workflow command."""
    assert run(wrong, "--format", "github") == 1

    assert capsys.readouterr().out.startswith(f"::error file={wrong},title=d9d-unregistered,line=7,col=6,")


@pytest.mark.parametrize(
    "comment", ["# type: ignore", "# type: ignore[misc, d9d-unregistered]", "# d9d: ignore[d9d-unregistered]"]
)
def test_a_comment_on_the_line_ignores_it(tmp_path: Path, comment: str) -> None:
    """With the code of d9d; mypy's own comment works, too."""
    path = tmp_path / "ignored.py"
    path.write_text(WRONG.replace("@subscribe(EVENT_TRAIN_STEP_POST)", f"@subscribe(EVENT_TRAIN_STEP_POST)  {comment}"))

    assert run(path) == 0


def test_a_comment_with_another_code_does_not(tmp_path: Path) -> None:
    """It is about another checker."""
    path = tmp_path / "ignored.py"
    path.write_text(WRONG.replace("_STEP_POST)", "_STEP_POST)  # type: ignore[no-untyped-call]"))

    assert run(path) == 1


def test_a_code_can_be_disabled(wrong: Path) -> None:
    """An unknown one is an error of the command."""
    assert run(wrong, "--disable", "d9d-unregistered") == 0
    with pytest.raises(SystemExit) as ended:
        run(wrong, "--disable", "d9d-unregisterd")
    assert ended.value.code == 2


def test_a_path_that_does_not_exist_is_an_error_of_the_command(tmp_path: Path) -> None:
    """So a misspelt path in CI does not pass."""
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "missing.py")
    assert ended.value.code == 2


def test_what_is_not_verified_is_counted_and_can_be_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No errors means that all is verified, unless the summary says otherwise."""
    path = tmp_path / "library.py"
    path.write_text(UNVERIFIED)

    assert run(path) == 0
    assert capsys.readouterr().out == "1 file checked: no errors; 1 not verified (--unchecked lists them)\n"
    assert run(path, "--unchecked") == 0
    assert f'{path}:6:5: note: Whether the handler "on_step" is registered is not verified' in capsys.readouterr().out


def test_a_file_that_cannot_be_parsed_is_an_error(tmp_path: Path, wrong: Path) -> None:
    """The others are checked all the same."""
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")

    found = check([tmp_path], use_cache=False).diagnostics

    assert [(Path(each.path).name, each.code) for each in found] == [
        ("binary.py", "d9d-syntax"),
        ("broken.py", "d9d-syntax"),
        (wrong.name, "d9d-unregistered"),
    ]


def test_a_notebook_is_checked_cell_by_cell(tmp_path: Path) -> None:
    """Lines count within the cell, and magic commands are skipped."""
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["%load_ext autoreload\n", "!ls\n", "import sys\n"]},
        {"cell_type": "code", "source": WRONG},
    ]
    path = tmp_path / "book.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")

    (found,) = check([path], use_cache=False).diagnostics

    assert (found.cell, found.line) == (3, 7)
    assert found.place == f"{path}:cell 3:7:6"


def test_a_fault_of_the_checker_is_a_note(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never keeps the rest from being checked."""
    original = Interpreter.run

    def fail(self: Interpreter, *arguments: Any, **named: Any) -> Any:
        if arguments[1].kind == "handler":
            raise ZeroDivisionError("by zero")
        return original(self, *arguments, **named)

    monkeypatch.setattr(Interpreter, "run", fail)

    found = check([wrong], use_cache=False).diagnostics

    assert [each.code for each in found] == ["d9d-unchecked", "d9d-unregistered"]
    assert "ZeroDivisionError: by zero. Please report it" in found[0].message


def test_a_message_about_a_notebook_names_cells(tmp_path: Path) -> None:
    """Also in formats that know lines of files only."""
    path = tmp_path / "book.ipynb"
    sources = ["from d9d import Event, EventBus, subscribe_annotated", WRONG, "bus = EventBus()\nbus", TWICE]
    cells = [{"cell_type": "code", "source": source} for source in sources]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")

    found = check([path], use_cache=False).diagnostics

    twice = next(each for each in found if each.code == "d9d-twice")
    assert (twice.cell, twice.line) == (4, 6)
    assert "the one in line 5 of cell 4" in twice.message
    assert f"::cell 4, line 6: {twice.message[:20]}" in as_github([twice])
    (result,) = json.loads(as_sarif([twice]))["runs"][0]["results"]
    assert result["message"]["text"].startswith("cell 4, line 6: ")
    assert "region" not in result["locations"][0]["physicalLocation"]


def test_a_misspelt_setting_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would turn something off without a word."""
    (tmp_path / "pyproject.toml").write_text('[tool.d9d]\nsource = ["src"]\n')
    (tmp_path / "right.py").write_text("")

    assert run(tmp_path) == 1

    assert "has a key 'source', which turns nothing on: the keys are catalogues" in capsys.readouterr().out


def test_what_a_crashed_run_would_have_registered_is_not_missed(
    tmp_path: Path, wrong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the checker is no fault of the program."""
    wrong.write_text(
        WRONG.replace(
            "    @subscribe",
            "    def register_events(self, ctx): subscribe_annotated(ctx.event_bus, self)\n\n    @subscribe",
        ).replace("import subscribe", "import subscribe, subscribe_annotated")
    )
    assert check([wrong], use_cache=False).diagnostics == []

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(Framework, "_subscribe_annotated", crash)

    assert {each.code for each in check([wrong], use_cache=False).diagnostics} == {"d9d-unchecked"}


def test_what_is_kept_is_kept_by_content(tmp_path: Path, wrong: Path) -> None:
    """The second run finds the same; an edit is seen; what is damaged is made again."""
    (tmp_path / "pyproject.toml").write_text("")
    (cold,) = check([wrong]).diagnostics
    kept = list((tmp_path / FOLDER).rglob("*.json"))

    assert check([wrong]).diagnostics == [cold]

    wrong.write_text(WRONG.replace("@subscribe", "#"), encoding="utf-8")
    assert check([wrong]).diagnostics == []

    wrong.write_text(WRONG, encoding="utf-8")
    assert len(kept) == 3
    for path in kept:
        path.write_text("{")
    assert check([wrong]).diagnostics == [cold]
    assert all(json.loads(path.read_text()) for path in kept)


def test_the_whole_program_is_read_and_the_given_files_are_reported(tmp_path: Path) -> None:
    """Whether an event is triggered, and a subscriber registered, is known from the other files of the project."""
    (tmp_path / "pyproject.toml").write_text('[tool.d9d]\nsources = ["src"]\n')
    source = tmp_path / "src"
    source.mkdir()
    (source / "events.py").write_text("from d9d import Event\nSAVED = Event[int](id='user.saved')\n")
    (source / "meter.py").write_text(
        "from d9d import subscribe\nfrom events import SAVED\n"
        "class Meter:\n    @subscribe(SAVED)\n    def on(self, n): ...\n"
    )
    (source / "use.py").write_text(
        "from d9d import *\nfrom events import SAVED\nfrom meter import Meter\n"
        "def run(bus: EventBus):\n    subscribe_annotated(bus, Meter())\n    bus.trigger(SAVED, 3)\n"
    )
    (tmp_path / "outside.py").write_text("def (")

    assert check([source / "meter.py"], use_cache=False).diagnostics == []

    (source / "use.py").unlink()
    (found,) = (each for each in check([source / "meter.py"], use_cache=False).diagnostics if each.severity == "error")
    assert found.code == "d9d-untriggered"
