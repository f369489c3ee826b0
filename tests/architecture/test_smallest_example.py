"""The smallest training script is small, learns, and resumes."""

import ast
import json
import os
import signal
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


def test_the_smallest_script_may_be_stopped_whenever_you_like(tmp_path: Path) -> None:
    """With Ctrl-C, as it says itself: it saves the step after which it stops, and the next run resumes from there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, SCRIPT], cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"step 10 of 500" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output = process.stderr.read().decode()
    (checkpoint,) = (tmp_path / "runs" / "smallest").glob("step-*")
    num_steps = int(checkpoint.name.removeprefix("step-"))

    assert process.returncode == 75
    assert "Traceback" not in output
    assert 10 <= num_steps < 100
    assert f"stopped after {num_steps} of 500 steps" in output
    run = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert f"train: resumed after {num_steps} of 500 steps" in run.stderr.decode()
