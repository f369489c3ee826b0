"""The report of a GPU has a line for each part, whatever happens to the others."""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture
def report() -> Any:
    """Import the script that writes the report."""
    return importlib.import_module("gpu_report")


@pytest.fixture
def runs() -> Any:
    """Import the checks of whole runs."""
    return importlib.import_module("gpu_runs")


def test_a_part_that_fails_or_hangs_does_not_keep_others_from_running(report: Any, tmp_path: Path) -> None:
    """The processes of a part that takes too long are ended, also those that it has started."""
    hang = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    scripts = {"fails": "raise SystemExit('no luck')", "hangs": hang, "passes": "print('done')"}
    parts = [report.Part(name, [sys.executable, "-c", script], 2) for name, script in scripts.items()]
    started = time.monotonic()
    outcomes = report.run_all(parts, tmp_path)
    text = report.report_on(outcomes, CPU, tmp_path)

    assert time.monotonic() - started < 20
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == ["FAILED with exit status 1", "FAILED: not done after 2 s", "ok"]
    assert "| passes | ok | 0 | done |" in text
    assert text.index("## fails") < text.index("no luck\n```") < text.index("## hangs")
    assert "## passes" not in text


def test_the_report_has_the_figures_of_a_gpu_and_none_of_a_trial_run(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the small scale of a trial run they say nothing."""
    case = {"by_hand": 1000.0, "own": 998.0, "ratio": 0.998, "error": 0.001, "idle": 0.001, "gap": 40.0, "memory": 1024}
    result = {"bounds": {"ratio": 0.995, "idle": 0.005, "memory": 2**20}, "cases": {"train": case}}
    more = {"failed": {}, "skipped": {}, "machine": {"accelerator": "Example 100"}}
    (tmp_path / "gpu.json").write_text(json.dumps({**result, **more}))
    monkeypatch.setattr(report, "describe_machine", lambda device: device.type)

    assert "0.9980 ± 0.0010" not in report.report_on([], CPU, tmp_path)
    text = report.report_on([], torch.device("cuda", 0), tmp_path)
    assert "| train | 1,000 | 998 | 0.9980 ± 0.0010 | 0.10% | 40 | 1,024 |" in text
    assert "Example 100" in text


def test_parts_share_the_time_that_there_is(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left when it is over is reported as failed, not left out."""
    monkeypatch.setattr(report, "TOTAL_SECONDS", 1)
    slow = report.Part("slow", [sys.executable, "-c", "import time; time.sleep(30)"], 30)

    statuses = [outcome.status for outcome in report.run_all([slow, slow], tmp_path)]

    assert statuses == ["FAILED: not done after 1 s", "FAILED: no time was left"]


def test_a_trial_run_has_the_parts_of_a_real_one(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except those that need the tools of a GPU, or several of them."""
    on_cpu = [part.name for part in report.parts_for(CPU, tmp_path)]
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(report.shutil, "which", lambda name: name)
    on_gpus = [part.name for part in report.parts_for(torch.device("cuda", 0), tmp_path)]

    assert on_gpus == [*on_cpu[:-1], "example `bytes_lm` on 2 devices", "`compute-sanitizer`", on_cpu[-1]]


def test_the_parts_of_a_trial_run_use_one_thread_each(report: Any, tmp_path: Path) -> None:
    """Several would wait for each other, for minutes where others use the cores too."""
    assert {part.environment.get("OMP_NUM_THREADS") for part in report.parts_for(CPU, tmp_path)} == {"1"}
    assert all("OMP_NUM_THREADS" not in part.environment for part in report.parts_for(torch.device("cuda"), tmp_path))


def test_a_folder_of_something_else_is_not_emptied(report: Any, tmp_path: Path) -> None:
    """Only that of an earlier report is."""
    precious = tmp_path / "precious"
    precious.touch()
    with pytest.raises(FileExistsError, match=r"has files and no report\.md"):
        report.prepare(tmp_path)
    (tmp_path / "report.md").touch()
    report.prepare(tmp_path)

    assert not precious.exists()


def test_a_run_that_resumes_exactly_passes_its_check(runs: Any) -> None:
    """With asynchronous saves, dropout and bf16."""
    runs.check_resume(CPU, "plain", "skip")
    runs.check_waits(CPU, "plain")


def test_a_run_that_resumes_with_other_weights_fails_its_check(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a single bit."""
    weights_after = runs.weights_after
    ends: list[dict[str, torch.Tensor]] = []

    def change_one_bit(trainer: Any) -> dict[str, torch.Tensor]:
        ends.append(weights_after(trainer))
        if len(ends) > 1:
            ends[-1]["0.bias"].view(torch.int32)[0] ^= 1
        return ends[-1]

    monkeypatch.setattr(runs, "weights_after", change_one_bit)
    with pytest.raises(AssertionError, match=r"ended with other values of 0\.bias"):
        runs.check_resume(CPU, "plain", "skip")
