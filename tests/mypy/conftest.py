"""Copies of the cases for each test, with the cache of a run over all of them."""

import shutil
from pathlib import Path

import pytest
from case_project import CheckedCases, Copier, Project, copy_cases


@pytest.fixture(name="checked_cases", scope="session")
def _checked_cases(tmp_path_factory: pytest.TempPathFactory) -> CheckedCases:
    """A copy of all cases, and what the first run of mypy reports for it."""
    project = copy_cases(tmp_path_factory.mktemp("cases") / "project")
    return CheckedCases(project, project.check())


@pytest.fixture(name="copy")
def _copy(tmp_path: Path, checked_cases: CheckedCases) -> Copier:
    """Return what copies the catalogues and the named cases, or all cases if none is named.

    A copy starts with the cache of the first run. So mypy reads neither its own stubs nor d9d again.
    """

    def copy(*files: str) -> Project:
        shutil.copytree(checked_cases.project.cache, tmp_path / "cache")
        return copy_cases(tmp_path / "project", *files)

    return copy
