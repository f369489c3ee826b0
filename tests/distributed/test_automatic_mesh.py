"""One script with an automatic mesh runs under `python` and under `torchrun`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("automatic_mesh_job.py")
PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(launcher: list[str], folder: Path, total_steps: int) -> str:
    """Run the script, and return what it says."""
    finished = subprocess.run(
        [*launcher, SCRIPT, folder, str(total_steps)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def losses_in(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def recorded_mesh(folder: Path, step: int) -> dict[str, Any]:
    """Return the sizes in a checkpoint that are not 1."""
    text = (folder / "checkpoints" / f"step-{step}" / "checkpoint.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    assert manifest["configuration"]["mesh"] == manifest["mesh"]
    return {name: size for name, size in manifest["mesh"].items() if size != 1}


def test_one_script_runs_alone_and_under_torchrun_and_resumes_on_either(tmp_path: Path) -> None:
    """Its losses are those of a run on one process throughout, and it says and records the mesh that it has."""
    run(PYTHON, tmp_path / "alone", 30)

    changing = tmp_path / "changing"
    first, second, third = run(PYTHON, changing, 10), run(TORCHRUN, changing, 20), run(PYTHON, changing, 30)

    assert "train: 10 steps, 64 samples each, on cpu, 1 process;" in first
    assert "train: resumed after 10 of 20 steps, 64 samples each, on cpu, 2 processes, data_parallel_shard=2;" in second
    assert "train: resumed after 20 of 30 steps, 64 samples each, on cpu, 1 process;" in third
    assert losses_in(changing) == pytest.approx(losses_in(tmp_path / "alone"), rel=1e-4)
    assert [recorded_mesh(changing, step) for step in (10, 20, 30)] == [{}, {"data_parallel_shard": 2}, {}]
