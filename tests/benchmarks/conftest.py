"""Benchmarks are scripts: their folder is not a package, and the tests import them from it."""

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _import_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Last, since benchmarks/mypy.py would hide mypy.
    monkeypatch.setattr(sys, "path", [*sys.path, str(PROJECT / "benchmarks")])
