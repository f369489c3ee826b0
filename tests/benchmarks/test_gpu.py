"""The benchmark of accelerators runs anywhere at a small scale, and reports each bound that is missed."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
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


def test_it_runs_at_a_small_scale(page: Any, tmp_path: Path) -> None:
    """All cases run in both loops, also on two processes; the result goes where it is asked for, and onto the page."""
    written = PROJECT / "docs/benchmarks/gpu.json"
    before = written.read_bytes()

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "benchmarks/gpu.py", "--small", "--output", str(tmp_path / "gpu.json")],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    assert written.read_bytes() == before
    left_out: set[str] = {"train, 2 devices"} if torch.accelerator.device_count() == 1 else set()
    assert result["cases"].keys() == JOBS - left_out
    assert result["failed"] == {}
    measured = {"idle", "memory", "gap", "gap_by_hand"} if torch.accelerator.is_available() else set()
    assert all(case.keys() == {"by_hand", "own", "ratio", "error"} | measured for case in result["cases"].values())
    assert result["skipped"].keys() == ({"idle", "memory"} - measured) | left_out
    shown = page.gpu(result)
    assert {line.split("|")[1].strip() for line in shown if line.startswith("| ")} == {"", *result["cases"]}


JOBS = {
    *("train", "train, torch.compile", "train, 4 micro-batches", "train, clipping", "train, 2 devices"),
    *("infer", "infer, torch.compile"),
}


def test_the_page_says_why_nothing_was_measured(page: Any) -> None:
    """A machine without an accelerator has no numbers."""
    shown = page.gpu({"bounds": BOUNDS, "skipped": {"gpu": "this machine has no accelerator"}})

    assert shown[-1] == "No run on a GPU has been made: this machine has no accelerator."


CASE = {"by_hand": 1000.0, "own": 995.0, "ratio": 0.995, "error": 0.001, "idle": 0.005, "memory": 1024}


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({}, []),
        ({"ratio": 0.9945}, []),  # the bound is within the interval
        ({"ratio": 0.99}, ["train: ratio is 0.9900 ± 0.0010, and the bound is 0.995"]),
        (
            {"ratio": 0.996, "error": 0.03},
            ["train: ratio is 0.9960 ± 0.0300, which is not precise enough: measure again"],
        ),
        ({"ratio": 1.2, "error": 0.03}, []),
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


def test_a_case_that_fails_does_not_lose_the_others(gpu: Any, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported as missed, and the page says so."""

    def measure(case: Any, *_: Any) -> dict[str, float]:
        if case.max_norm is not None:
            raise gpu.WrongResultError("the losses of the two loops differ")
        return CASE

    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "measure_in_processes", lambda *_: CASE)
    result = gpu.measure_all(torch.device("cpu"), gpu.SMALL, None)

    assert result["cases"].keys() == JOBS - {"train, clipping"}
    assert gpu.misses(result) == ["train, clipping: WrongResultError: the losses of the two loops differ"]
    assert any("failed: WrongResultError: the losses" in line for line in page.gpu(result))


LOSSES = [torch.tensor(4.0 - 0.1 * step) for step in range(20)]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([loss * 1.01 for loss in LOSSES], None),
        ([loss * 1.1 for loss in LOSSES], "differ by up to 10.0%"),
        ([*LOSSES[:-1], torch.tensor(torch.nan)], "not finite"),
    ],
)
def test_loops_are_compared_by_their_losses(gpu: Any, own: list[torch.Tensor], message: str | None) -> None:
    """Weights whose gradient is zero but for rounding become anything, so weights cannot be compared."""
    if message is None:
        gpu.require_same(LOSSES, own, trains=True)
        return
    with pytest.raises(gpu.WrongResultError, match=message):
        gpu.require_same(LOSSES, own, trains=True)


def test_losses_that_do_not_fall_show_nothing(gpu: Any) -> None:
    """Two loops that do not train agree."""
    with pytest.raises(gpu.WrongResultError, match="does not fall"):
        gpu.require_same([torch.tensor(4.0)] * 20, [torch.tensor(4.0)] * 20, trains=True)
    gpu.require_same([torch.tensor(4.0)] * 20, [torch.tensor(4.0)] * 20, trains=False)


def test_gaps_are_those_of_the_stream_that_computes(gpu: Any) -> None:
    """Spans may overlap, or lie within others; a copy on another stream fills no gap."""
    spans = [(7, 0.0, 4.0), (7, 1.0, 2.0), (20, 4.0, 8.0), (7, 3.0, 5.0), (7, 7.0, 10.0)]

    assert gpu.gaps_of(sorted((gpu.Span(*span) for span in spans), key=lambda span: span.start)) == [2.0]
    assert gpu.gaps_of([]) == []


def test_the_interval_of_a_ratio_shrinks_with_the_number_of_rounds(gpu: Any) -> None:
    """With 12 rounds that scatter by 0.5%, it is 0.3% wide on each side."""
    ratio, error = gpu.interval([0.995, 1.005] * 6)

    assert ratio == pytest.approx(1.0)
    assert error == pytest.approx(2.2 * 0.005222 / 12**0.5, rel=1e-3)
    assert gpu.interval([0.995, 1.005])[1] > 10 * error


def test_spans_of_a_profile_have_the_number_of_their_stream(gpu: Any) -> None:
    """Torch's events have the attributes that are read; a CPU has no spans."""
    with torch.profiler.profile() as recorded:
        torch.ones(3).add(1)
    events = recorded.events()

    assert events
    assert all(isinstance(event.device_resource_id, int) for event in events)
    assert gpu.spans_of(recorded) == []


@pytest.mark.parametrize("name", ["train", "infer"])
def test_a_profile_covers_the_steps_after_the_warm_up(gpu: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of both loops; the CPU stands in for a device that counts its memory."""
    profiled: list[str] = []

    class Recorder:
        def __init__(self, **_: Any) -> None:
            pass

        def start(self) -> None:
            profiled.append("start")

        def stop(self) -> None:
            profiled.append("stop")

        def events(self) -> list[Any]:
            return []

    monkeypatch.setattr(gpu, "profile", Recorder)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    for function in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.accelerator, function, lambda _device, function=function: len(function))
    num_steps = gpu.SMALL.num_warmup_steps + gpu.SMALL.num_profiled_steps + 1
    job = gpu.Job(device=torch.device("cpu"), scale=gpu.SMALL, case=gpu.CASES[name], num_steps=num_steps)
    by_hand, own = gpu.loops_of(job.case)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)

    def note(before_step: Callable[[int], None], number: int) -> None:
        profiled.append(str(number))
        before_step(number)

    for run in (gpu.call_before_steps(by_hand), own):
        profiled.clear()
        found = gpu.measure_alone(job, lambda job, before_step, run=run: run(job, lambda n: note(before_step, n)))
        assert found == {"idle": 0.0, "gap": 0.0, "memory": len("max_memory_allocated") - len("memory_allocated")}
        assert profiled == ["0", "1", "2", "start", "3", "4", "stop"]
