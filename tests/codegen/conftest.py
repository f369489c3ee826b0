"""Fixtures of the tests of the compiler."""

from pathlib import Path

import pytest

from .workspace import PYPROJECT, SMALL, Workspace


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workspace:
    """A project without a catalogue."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path, capsys)


@pytest.fixture
def small(empty: Workspace) -> Workspace:
    """A project with a small catalogue that wants API pages."""
    empty.write(SMALL)
    empty.write(PYPROJECT, "pyproject.toml")
    return empty
