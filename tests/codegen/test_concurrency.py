"""Concurrent runs of `generate`: the tree is right in the end, and each run reports what it did."""

import re
import subprocess
import sys

import pytest

from .workspace import PYPROJECT, SMALL, TWO_LOOPS, Workspace

WROTE = re.compile(r"wrote (\d+) of \d+ files(?:, removed (\d+))?\n")


def run_together(num_runs: int) -> list[str]:
    """Start several runs at once; return their outputs. All must succeed without a word on stderr."""
    command = [sys.executable, "-m", "d9d_codegen", "generate"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(num_runs)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [(run.returncode, error) for run, (_, error) in zip(runs, outputs, strict=True)] == [(0, "")] * num_runs, (
        outputs
    )
    return [output for output, _ in outputs]


def race(small: Workspace, *, num_runs: int, num_rounds: int) -> None:
    """Let runs change the tree from one catalogue to another and back, and compare it with that of a single run."""
    catalogues = [SMALL.replace("when the door", "once the door"), TWO_LOOPS]
    expected = []
    for catalogue in catalogues:
        small.write(catalogue)
        small.run("generate")
        expected.append(small.files())
    for number in range(num_rounds):
        before, after = expected[1 - number % 2], expected[number % 2]
        small.write(catalogues[number % 2])
        done = [match for output in run_together(num_runs) if (match := WROTE.fullmatch(output))]
        assert len(done) == num_runs
        assert small.files() == after
        generated = {path for path in before.keys() | after.keys() if path.startswith(("shop", "docs"))}
        num_written = sum(path in after and before.get(path) != after[path] for path in generated)
        num_removed = sum(path not in after for path in generated)
        assert sum(int(match[1]) for match in done) == num_written
        assert sum(int(match[2] or 0) for match in done) == num_removed


@pytest.mark.parametrize("num_runs", [2, 3])
def test_a_few_rounds_of_concurrent_runs_end_with_the_right_tree(small: Workspace, num_runs: int) -> None:
    """Each file is written by exactly one run."""
    small.write(PYPROJECT, "pyproject.toml")
    race(small, num_runs=num_runs, num_rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [2, 3])
def test_fifty_rounds_of_concurrent_runs_end_with_the_right_tree(small: Workspace, num_runs: int) -> None:
    """The same, often enough to meet a rare interleaving."""
    small.write(PYPROJECT, "pyproject.toml")
    race(small, num_runs=num_runs, num_rounds=50)
