"""A copy of the cases for each test."""

from pathlib import Path

import pytest
from case_project import Copier, Project, copy_cases


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Copier:
    """Return what copies the catalogues and the named cases, or all cases if none is named."""

    def copy(*files: str) -> Project:
        return copy_cases(tmp_path / "project", *files)

    return copy
