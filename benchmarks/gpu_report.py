"""Runs everything that needs a GPU, in at most ten minutes, and writes one report; `--device cpu` tries it out.

On a CPU the same parts run at a small scale, the tests that need a GPU skip themselves, and no bound is checked.
"""

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import page
import torch

PROJECT = Path(__file__).parents[1]
TOTAL_SECONDS = 600
_NUM_LINES_SHOWN = 60


class Part(NamedTuple):
    """A command that checks something.

    Attributes:
        name: What it checks.
        command: The command.
        seconds: How long it may take.
        environment: Environment variables in addition to those of this process.
    """

    name: str
    command: Sequence[str]
    seconds: float
    environment: dict[str, str] = {}  # noqa: RUF012 -- never changed


class Outcome(NamedTuple):
    """How a part ended.

    Attributes:
        part: The part.
        status: `ok`, `FAILED`, or why it did not run.
        seconds: How long it took.
        output: What it printed.
    """

    part: Part
    status: str
    seconds: float
    output: str

    @property
    def is_failed(self) -> bool:
        """Whether it ran and failed."""
        return self.status.startswith("FAILED")


def parts_for(device: torch.device, folder: Path) -> list[Part]:
    """List all parts.

    Args:
        device: The device.
        folder: Where they may write.
    """
    python = sys.executable
    is_cpu = device.type == "cpu"
    num_devices = 1 if is_cpu else torch.accelerator.device_count()
    runs = [python, "-W", "ignore", str(PROJECT / "benchmarks/gpu_runs.py"), "--device", str(device)]
    # Deterministic matrix products of CUDA need it.
    deterministic = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    bytes_lm = PROJECT / "examples/bytes_lm"
    example = ["--preset", "tiny", "--run-folder", str(folder / "bytes_lm")]
    on_device = ["--device", device.type]
    parts = [
        Part("tests marked `gpu`", [python, "-m", "pytest", "-q", "-m", "gpu", str(PROJECT / "tests")], 150),
        Part("exact resume, and steps without waits", runs, 150, deterministic),
        Part("example `smallest`", [python, str(PROJECT / "examples/smallest.py")], 60),
        Part("example `bytes_lm`, training", [python, str(bytes_lm / "train.py"), *example, *on_device], 60),
        Part("example `bytes_lm`, inference", [python, str(bytes_lm / "infer.py"), *example, *on_device], 60),
    ]
    if num_devices > 1:
        launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_devices)]
        sharded = ["--run-folder", str(folder / "sharded"), "--data-parallel-shard", str(num_devices)]
        arguments = ["--preset", "tiny", *sharded, *on_device]
        parts.append(
            Part(
                f"example `bytes_lm` on {num_devices} devices", [*launcher, str(bytes_lm / "train.py"), *arguments], 90
            )
        )
    if shutil.which("compute-sanitizer") and not is_cpu:
        sanitizer = ["compute-sanitizer", "--error-exitcode", "9"]
        parts.append(Part("`compute-sanitizer`", [*sanitizer, *runs, "--kinds", "plain"], 120, deterministic))
    benchmark = [python, "-W", "ignore", str(PROJECT / "benchmarks/gpu.py"), "--output", str(folder / "gpu.json")]
    parts.append(Part("benchmark", [*benchmark, *(["--small"] if is_cpu else [])], 300))
    if is_cpu:
        # At the small scale threads only wait for each other; where others use the cores too, for minutes.
        parts = [part._replace(environment={"OMP_NUM_THREADS": "1", **part.environment}) for part in parts]
    return parts


def run(part: Part, folder: Path, seconds: float) -> Outcome:
    """Run a part, and end all of its processes if it takes too long.

    Args:
        part: The part.
        folder: The folder to run it in.
        seconds: How long it may take.
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "examples/bytes_lm"), **part.environment}
    output_path = folder / "output"
    with (
        output_path.open("w", encoding="utf-8") as output,
        subprocess.Popen(  # noqa: S603 -- ours
            part.command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            status = process.wait(seconds)
            verdict = "ok" if status == 0 else f"FAILED with exit status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            verdict = f"FAILED: not done after {seconds:.0f} s"
    text = output_path.read_text(encoding="utf-8", errors="replace")
    output_path.unlink()
    return Outcome(part, verdict, time.monotonic() - started, text)


def run_all(parts: Sequence[Part], folder: Path) -> list[Outcome]:
    """Run all parts one after another, within the time that there is for all of them."""
    deadline = time.monotonic() + TOTAL_SECONDS
    outcomes = []
    for part in parts:
        seconds = min(part.seconds, deadline - time.monotonic())
        sys.stdout.write(f"{part.name} … ")
        sys.stdout.flush()
        outcome = run(part, folder, seconds) if seconds > 0 else Outcome(part, "FAILED: no time was left", 0.0, "")
        sys.stdout.write(f"{outcome.status} ({outcome.seconds:.0f} s)\n")
        outcomes.append(outcome)
    return outcomes


def describe_machine(device: torch.device) -> str:
    """Return the name of the device and the versions that matter."""
    if device.type == "cpu":
        name = f"CPU ({platform.machine()}), to try this report out"
    else:
        name = f"{torch.accelerator.device_count()} × {torch.get_device_module(device).get_device_name(device)}"
    return f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"


def report_on(outcomes: Sequence[Outcome], device: torch.device, folder: Path) -> str:
    """Return the report in Markdown."""
    lines = [
        "# What ran on the GPU" if device.type != "cpu" else "# A trial run of the GPU report, on a CPU",
        "",
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {describe_machine(device)}.",
        "",
        "| part | result | seconds | last line |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        last = (outcome.output.strip().splitlines() or [""])[-1][:100].replace("|", "\\|")
        lines.append(f"| {outcome.part.name} | {outcome.status} | {outcome.seconds:.0f} | {last} |")
    written = folder / "gpu.json"
    if device.type != "cpu" and written.exists():  # figures of the small scale say nothing
        lines += ["", *page.gpu(json.loads(written.read_text(encoding="utf-8")))]
        lines += ["", "To publish these figures, copy gpu.json to docs/benchmarks and run benchmarks/page.py."]
    for outcome in outcomes:
        if outcome.is_failed:
            shown = outcome.output.strip().splitlines()[-_NUM_LINES_SHOWN:]
            command = " ".join(outcome.part.command)
            lines += ["", f"## {outcome.part.name}", "", f"`{command}`", "", "```", *shown, "```"]
    return "\n".join([*lines, ""])


def prepare(folder: Path) -> None:
    """Make a folder for a report, and remove the earlier one, but no folder of anything else.

    Raises:
        FileExistsError: If the folder has other files.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "report.md").exists():
        raise FileExistsError(f"{folder} has files and no report.md: choose another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def main() -> int:
    """Run all parts, write the report, and fail if one of them does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="by default the accelerator; `cpu` tries the report out")
    parser.add_argument(
        "--output", type=Path, default=PROJECT / "runs/gpu", help="the folder of report.md and gpu.json"
    )
    options = parser.parse_args()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if options.device is None and accelerator is None:
        parser.error("this machine has no accelerator; --device cpu (make gpu DEVICE=cpu) tries the report out")
    device = torch.empty(0, device=options.device or accelerator).device
    folder: Path = options.output.absolute()
    prepare(folder)
    started = time.monotonic()
    outcomes = run_all(parts_for(device, folder), folder)
    (folder / "report.md").write_text(report_on(outcomes, device, folder), encoding="utf-8")
    failed = [outcome for outcome in outcomes if outcome.is_failed]
    sys.stdout.write(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} parts passed in {time.monotonic() - started:.0f} s: "
        f"{folder / 'report.md'}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
