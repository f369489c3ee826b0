"""Copies of the cases, for each test its own."""

from pathlib import Path

import pytest
from case_project import Copier, Project, copy_cases


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Copier:
    """Copies the catalogues and the named cases: all of them, if none is named."""

    def copy(*files: str) -> Project:
        return copy_cases(tmp_path / "project", *files)

    return copy
