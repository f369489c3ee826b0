"""CI tests what the project supports: each Python, and both ends of each range of versions."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    """The jobs of the workflow, by name."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = workflow["jobs"]
    return found


def commands_of(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_each_supported_python_is_tested(jobs: dict[str, Any]) -> None:
    """The classifiers of the package name the same versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = {match[1] for line in project["classifiers"] if (match := re.search(r"Python :: (3\.\d+)$", line))}
    setups = [step["with"]["python-version"] for step in jobs["test"]["steps"] if "with" in step]

    assert {*setups, *jobs["other-pythons"]["strategy"]["matrix"]["python"]} == supported


def test_each_job_of_the_matrix_is_run(jobs: dict[str, Any]) -> None:
    """Those that the matrix itself lists."""
    command = [sys.executable, ".ci/matrix.py", "--list"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert jobs["versions"]["strategy"]["matrix"]["job"] == re.findall(r"^([\w-]+) ", listed, flags=re.MULTILINE)


def test_what_the_matrix_leaves_out_exists() -> None:
    """A test that was renamed would be run again, and fail for its page."""
    left_out = re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / ".ci" / "matrix.py").read_text(encoding="utf-8"))

    assert left_out
    assert all(f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") for path, name in left_out)


def test_each_command_is_a_target_or_a_test(jobs: dict[str, Any]) -> None:
    """A target of the Makefile, or pytest on folders of tests."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    commands = [command for job in jobs.values() for command in commands_of(job)]

    assert len(commands) >= 4
    for command in commands:
        program, *words = command.split()
        if program == "make":
            assert {word for word in words if re.fullmatch("[a-z-]+", word)} <= set(targets)
        else:
            assert program == ".venv/bin/pytest"
            assert all((ROOT / word).is_dir() for word in words if word.startswith("tests/"))
