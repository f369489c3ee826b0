"""Mypy with the plugin, on copies of the example's task with one mistake each."""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from case_project import ENVIRONMENT, ROOT
from seeded_mistakes import MISTAKES, TASK, SeededMistake
from verification_page import CODES

CONFIGURATION = """
[mypy]
plugins = d9d.mypy
strict = True
enable_error_code = d9d-host-sync, d9d-collective, d9d-order
mypy_path = {folder}:{root}
"""
Reports = Mapping[str, list[tuple[str, str]]]


@pytest.fixture(name="reports", scope="module")
def _reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Return the code and the message of each error by file: in the example, and in a copy of its task per mistake.

    One run checks them all, with the real torch. A catalogue with deprecated names is added: that of d9d has none.
    """
    folder = tmp_path_factory.mktemp("seeded") / "bytes_lm"
    shutil.copytree(ROOT / "examples" / "bytes_lm", folder, ignore=shutil.ignore_patterns("wrong"))
    shutil.copytree(ROOT / "tests" / "mypy" / "cases" / "lab", folder / "lab")
    text = (folder / TASK).read_text(encoding="utf-8")
    for mistake in MISTAKES:
        (folder / file_of(mistake)).write_text(planted(mistake, text), encoding="utf-8")
    settings = folder.parent / "mypy.ini"
    settings.write_text(CONFIGURATION.format(folder=folder, root=ROOT), encoding="utf-8")
    options = [f"--config-file={settings}", "--cache-dir=/dev/null", "--output=json"]
    command = [sys.executable, "-m", "mypy", *options, str(folder)]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "")
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in map(json.loads, run.stdout.splitlines()):
        if each["severity"] == "error":
            found[Path(each["file"]).name].append((each["code"], each["message"]))
    return found


def file_of(mistake: SeededMistake) -> str:
    """Return the name of the copy of the task that has a mistake."""
    return f"task_{MISTAKES.index(mistake)}.py"


def planted(mistake: SeededMistake, text: str) -> str:
    """Return a text with a mistake in it."""
    for old, new in mistake.edits:
        assert old in text, f"{mistake.name}: the example no longer contains {old!r}"
        text = text.replace(old, new, 1)
    return text


def test_there_are_twenty_five_mistakes_of_all_codes() -> None:
    """No code is left out, but the one about the file with the catalogues."""
    assert len(MISTAKES) == 25
    assert {mistake.code for mistake in MISTAKES} == set(CODES) - {"d9d-index"}


def test_the_example_itself_has_no_mistake(reports: Reports) -> None:
    """Everything that is reported comes from the planted mistakes."""
    assert set(reports) <= set(map(file_of, MISTAKES))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_reported(reports: Reports, mistake: SeededMistake) -> None:
    """The report has its code, and the words that its author needs."""
    messages = [message for code, message in reports[file_of(mistake)] if code == mistake.code]

    assert messages
    assert [word for word in mistake.words if word not in messages[0]] == []
