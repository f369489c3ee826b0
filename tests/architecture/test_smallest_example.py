"""The smallest training script is small, trains, and goes on where it was."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "smallest.py"


def run_in(folder: Path) -> list[str]:
    """Run the script in a folder, and return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # beside other tests, threads only wait for each other
    run = subprocess.run(
        [sys.executable, SCRIPT], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return run.stdout.splitlines()


def test_the_smallest_script_is_under_sixty_lines() -> None:
    """All of it, with its docstrings."""
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 60


def test_the_smallest_script_learns_and_resumes(tmp_path: Path) -> None:
    """The first run comes to tell nearly all points right; the second finds nothing left to do."""
    lines = run_in(tmp_path)

    assert [line.partition(":")[0] for line in lines] == [f"step {step}" for step in (100, 200, 300, 400, 500)]
    assert max(int(line.partition(": ")[2].partition("%")[0]) for line in lines) >= 90
    assert [path.name for path in (tmp_path / "runs" / "smallest").iterdir()] == ["step-500"]
    assert run_in(tmp_path) == []
