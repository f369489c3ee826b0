"""Mypy with the plugin, on copies of the example `bytes_lm` into which mistakes were planted one at a time."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mypy.api
import pytest
from seeded_mistakes import MISTAKES, TASK, SeededMistake
from verification_page import CODES

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
[mypy]
plugins = d9d.mypy
strict = True
enable_error_code = d9d-host-sync, d9d-collective, d9d-order
mypy_path = {folder}:{root}
"""


@pytest.fixture(name="example", scope="module")
def _example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the example, and beside it a catalogue that has deprecated names: that of d9d has none."""
    folder = tmp_path_factory.mktemp("seeded") / "bytes_lm"
    shutil.copytree(ROOT / "examples" / "bytes_lm", folder, ignore=shutil.ignore_patterns("wrong"))
    shutil.copytree(ROOT / "tests" / "mypy" / "cases" / "lab", folder / "lab")
    return folder


@pytest.fixture(name="original")
def _original(example: Path) -> Iterator[str]:
    """Return the text of the task, and restore it in the end."""
    text = (example / TASK).read_text(encoding="utf-8")
    yield text
    (example / TASK).write_text(text, encoding="utf-8")


def reports(example: Path) -> list[tuple[str, str]]:
    """Return the code and the message of each error, checked with the real torch and the cache of earlier runs."""
    settings = example.parent / "mypy.ini"
    settings.write_text(CONFIGURATION.format(folder=example, root=ROOT), encoding="utf-8")
    options = [f"--config-file={settings}", f"--cache-dir={example.parent / 'cache'}", "--output=json"]
    out, problems, _ = mypy.api.run([*options, str(example)])
    assert not problems
    entries = [json.loads(line) for line in out.splitlines() if line]
    return [(each["code"], each["message"]) for each in entries if each["severity"] == "error"]


def planted(mistake: SeededMistake, text: str) -> str:
    """Return a text with a mistake in it."""
    for old, new in mistake.edits:
        assert old in text, f"{mistake.name}: the example has no {old!r} any more"
        text = text.replace(old, new, 1)
    return text


def test_there_are_twenty_one_mistakes_of_all_codes() -> None:
    """No code is left out."""
    assert len(MISTAKES) == 21
    assert {mistake.code for mistake in MISTAKES} == set(CODES)


def test_the_example_itself_has_no_mistake(example: Path) -> None:
    """What is reported below comes from what was planted."""
    assert reports(example) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_reported(example: Path, original: str, mistake: SeededMistake) -> None:
    """Under its code, and with the words that its author needs."""
    (example / TASK).write_text(planted(mistake, original), encoding="utf-8")

    messages = [message for code, message in reports(example) if code == mistake.code]

    assert messages
    assert [word for word in mistake.words if word not in messages[0]] == []
