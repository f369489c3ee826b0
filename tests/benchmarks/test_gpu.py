"""The benchmark of accelerators runs anywhere at a small scale, and reports each bound that is missed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PROJECT = Path(__file__).parents[2]
BOUNDS = {"ratio": 0.995, "idle": 0.005, "memory": 1024}


@pytest.fixture
def gpu() -> Any:
    """Import the benchmark."""
    return importlib.import_module("gpu")


@pytest.fixture
def page() -> Any:
    """Import the module that writes the page."""
    return importlib.import_module("page")


def test_it_runs_at_a_small_scale(page: Any) -> None:
    """Training and inference run, with and without `torch.compile`, in both loops; the page shows all four."""
    written = PROJECT / "docs/benchmarks/gpu.json"
    before = written.read_bytes()

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "benchmarks/gpu.py", "--small"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    jobs = [f"{name}, torch.compile {switch}" for name in ("train", "infer") for switch in ("off", "on")]
    assert list(result["cases"]) == jobs
    assert all(case["ratio"] == case["own"] / case["by_hand"] > 0 for case in result["cases"].values())
    measured = {"idle", "memory"} if torch.accelerator.is_available() else set()
    assert all(case.keys() == {"by_hand", "own", "ratio"} | measured for case in result["cases"].values())
    assert result["skipped"].keys() == {"idle", "memory"} - measured
    assert written.read_bytes() == before
    shown = page.gpu(result)
    assert [line.split("|")[1].strip() for line in shown if line.startswith("| ")] == ["", *jobs]


def test_the_page_says_why_nothing_was_measured(page: Any) -> None:
    """A machine without an accelerator has no numbers."""
    shown = page.gpu({"bounds": BOUNDS, "skipped": {"gpu": "this machine has no accelerator"}})

    assert shown[-1] == "No run on a GPU has been made: this machine has no accelerator."


CASE = {"by_hand": 1000.0, "own": 995.0, "ratio": 0.995, "idle": 0.005, "memory": 1024}


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({}, []),
        ({"ratio": 0.99}, ["train: ratio is 0.99, and the bound is 0.995"]),
        ({"idle": 0.006}, ["train: idle is 0.006, and the bound is 0.005"]),
        ({"memory": 1536}, ["train: memory is 1536, and the bound is 1024"]),
        ({"ratio": 1.2, "idle": -0.1, "memory": -5000}, []),
    ],
)
def test_each_missed_bound_is_reported(
    gpu: Any, capsys: pytest.CaptureFixture[str], found: dict[str, float], missed: list[str]
) -> None:
    """The benchmark then fails, and says which bound was missed and by how much."""
    misses = gpu.misses({"bounds": BOUNDS, "cases": {"train": {**CASE, **found}}, "skipped": {}})

    assert misses == missed
    assert gpu.report_missed(misses) == len(missed)
    assert capsys.readouterr().out.splitlines() == [f"MISSED {line}" for line in missed]


def test_idle_time_is_what_no_span_covers(gpu: Any) -> None:
    """Spans may overlap, or lie within others."""
    assert gpu.idle_share([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (7.0, 10.0)]) == 0.2
