"""The smallest training script is small, learns, and resumes."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "smallest.py"


def run_in(folder: Path) -> list[float]:
    """Run the script in a folder, and return all losses that have been reported there so far."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # with other tests, threads only wait for each other
    subprocess.run([sys.executable, SCRIPT], cwd=folder, env=environment, check=True, capture_output=True)
    lines = (folder / "runs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_smallest_script_has_25_lines_and_at_most_two_imports_of_d9d() -> None:
    """All of it, with its docstring."""
    source = SCRIPT.read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]

    assert len(source.splitlines()) <= 25
    assert 1 <= sum("d9d" in ast.unparse(node) for node in imports) <= 2


def test_the_smallest_script_learns_and_resumes(tmp_path: Path) -> None:
    """The first run learns the function; without its last checkpoint, the second one takes the last steps again."""
    losses = run_in(tmp_path)
    checkpoints = tmp_path / "runs" / "smallest"

    assert losses[0] > 0.2
    assert max(losses[-5:]) < 0.02
    assert sorted(path.name for path in checkpoints.glob("step-*")) == ["step-300", "step-400", "step-500"]

    for file in (checkpoints / "step-500").iterdir():
        file.unlink()
    (checkpoints / "step-500").rmdir()
    resumed = run_in(tmp_path)[len(losses) :]

    assert resumed == losses[-len(resumed) :]
    assert 0 < len(resumed) < len(losses) / 4
