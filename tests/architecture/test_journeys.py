"""How many files a reader opens to follow one journey through the project."""

from pathlib import Path

import pytest
from journeys import PROJECT, files_opened

from d9d_codegen.cli import main

MAX_FILES_OF_GENERATE = 25
MAX_FILES_OF_THE_COMPILER = 45


def test_generate_with_nothing_to_change_opens_few_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the YAML to the dataclass: the compiler on the catalogue of this project."""
    monkeypatch.chdir(PROJECT)
    status: list[int] = []

    opened = files_opened(lambda: status.append(main(["generate"])))

    assert status == [0]
    assert capsys.readouterr().out.startswith("wrote 0 of ")
    assert "codegen/d9d_codegen/read.py" in opened
    assert len(opened) <= MAX_FILES_OF_GENERATE, opened


def test_the_compiler_has_few_files() -> None:
    """A module is a concept, not a function."""
    files = [path for path in Path(PROJECT, "codegen", "d9d_codegen").rglob("*.py") if "__pycache__" not in path.parts]

    assert len(files) <= MAX_FILES_OF_THE_COMPILER
