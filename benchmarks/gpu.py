"""Compares the loops with loops by hand on an accelerator: tokens per second, idle time, and memory."""

import argparse
import contextlib
import gc
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_job import LARGE, SMALL, Case, Job, Scale
from gpu_loops import ByHand, Own, infer_by_hand, infer_with_loop, train_by_hand, train_with_loop
from measurement import RESULTS, WrongResultError, machine, report_missed
from torch import distributed
from torch.autograd import DeviceType  # type: ignore[attr-defined] # torch's own, and in its documentation
from torch.profiler import profile, supported_activities

BOUNDS = {"ratio": 0.995, "idle": 0.005, "memory": 2**20}
"""Compared with the loop by hand: the least ratio of tokens per second, and by how much the share of idle time and the
bytes of device memory may grow."""

LARGEST_ERROR = 0.005
"""The largest half-width of the interval of a ratio that says anything about its bound."""

CASES = {
    "train": Case(),
    "train, torch.compile": Case(is_compiled=True),
    "train, 4 micro-batches": Case(num_micro_batches=4),
    "train, clipping": Case(max_norm=1.0),
    "infer": Case(trains=False),
    "infer, torch.compile": Case(trains=False, is_compiled=True),
    "train, 2 devices": Case(num_processes=2),
}

LARGEST_DIFFERENCE = 0.05
"""The largest difference of a loss of the two loops, as a share of it."""

# Student's t for intervals of 95%, by the number of measurements. That of the next lower number is a little too large.
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 6: 2.57, 8: 2.36, 10: 2.26, 12: 2.20}


class Span(NamedTuple):
    """When a stream of the device was busy.

    Attributes:
        stream: The number of the stream.
        start: When it began, in microseconds.
        end: When it ended.
    """

    stream: int
    start: float
    end: float


def loops_of(case: Case) -> tuple[ByHand, Own]:
    """Return the loop by hand and that of this project for a case."""
    return (train_by_hand, train_with_loop) if case.trains else (infer_by_hand, infer_with_loop)


def race(job: Job) -> tuple[list[float], list[float]]:
    """Let the two loops take turns, a block of steps at a time, and check that their losses agree.

    So both meet the same temperature and clock of the device. A block by hand runs between two of the other loop.

    Args:
        job: The job, with one step more than the blocks have.

    Returns:
        The seconds of each block of the loop by hand, and of each of the other, of which there is one more.

    Raises:
        WrongResultError: If the losses differ.
    """
    by_hand, own = loops_of(job.case)
    scale = job.scale
    steps_by_hand = by_hand(job)
    losses = [next(steps_by_hand) for _ in range(scale.num_warmup_steps)]
    seconds_by_hand: list[float] = []
    seconds_of_own: list[float] = []
    started = 0.0

    def before_step(num_done: int) -> None:
        nonlocal started
        num_measured = num_done - scale.num_warmup_steps
        if num_measured < 0 or num_measured % scale.num_steps_per_block:
            return
        job.synchronize()
        if num_measured:
            seconds_of_own.append(time.perf_counter() - started)
        if len(seconds_by_hand) < scale.num_rounds and num_measured:
            started = time.perf_counter()
            losses.extend(itertools.islice(steps_by_hand, scale.num_steps_per_block))
            job.synchronize()
            seconds_by_hand.append(time.perf_counter() - started)
        started = time.perf_counter()

    require_same(losses, own(job, before_step), trains=job.case.trains)
    return seconds_by_hand, seconds_of_own


def require_same(by_hand: Sequence[torch.Tensor], own: Sequence[torch.Tensor], *, trains: bool) -> None:
    """Require that two loops have nearly the same losses, and that those of training fall.

    Some kernels add in no fixed order, so not even two runs of one loop are equal bit for bit, and their weights drift
    apart: weights whose gradient is zero but for rounding become anything.

    Args:
        by_hand: The losses of one loop, a scalar for each step.
        own: Those of the other, at least as many.
        trains: Whether the loops train.

    Raises:
        WrongResultError: If they do not.
    """
    expected, found = torch.stack([*by_hand]).cpu().float(), torch.stack([*own][: len(by_hand)]).cpu().float()
    if not (expected.isfinite().all() and found.isfinite().all()):
        raise WrongResultError("a loss is not finite")
    difference = ((found - expected).abs() / expected.abs().clamp(min=0.1)).max().item()
    if difference > LARGEST_DIFFERENCE:
        raise WrongResultError(f"the losses of the two loops differ by up to {difference:.1%}")
    half = len(expected) // 2
    if trains and not expected[half:].mean() < expected[:half].mean():
        raise WrongResultError("the loss does not fall, so equal losses show nothing")


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the mean of ratios, and the half-width of its interval of 95%."""
    student = _STUDENT[max(number for number in _STUDENT if number <= len(ratios))]
    return statistics.fmean(ratios), student * statistics.stdev(ratios) / math.sqrt(len(ratios))


def measure_speed(job: Job) -> dict[str, float]:
    """Measure tokens per second of both loops."""
    seconds_by_hand, seconds_of_own = race(job)
    # A block by hand is compared with the blocks before and after it, so that a steady drift cancels out.
    ratios = [
        by_hand / ((before + after) / 2)
        for by_hand, (before, after) in zip(seconds_by_hand, itertools.pairwise(seconds_of_own), strict=True)
    ]
    ratio, error = interval(ratios)
    num_tokens = job.scale.num_steps_per_block * job.global_batch_size * job.scale.length
    return {
        "by_hand": num_tokens / statistics.median(seconds_by_hand),
        "own": num_tokens / statistics.median(seconds_of_own),
        "ratio": ratio,
        "error": error,
    }


def spans_of(recorded: profile) -> list[Span]:
    """Return when the streams of the device were busy, sorted by start."""
    return sorted(
        (
            Span(event.device_resource_id, event.time_range.start, event.time_range.end)
            for event in recorded.events() or ()
            # A range that the host has named covers, on the device too, the gaps between its kernels.
            if event.device_type != DeviceType.CPU and not event.is_user_annotation
        ),
        key=lambda span: span.start,
    )


def gaps_of(spans: Sequence[Span]) -> list[float]:
    """Return the gaps of the stream that computes, in microseconds.

    That is the busiest one. Copies on other streams would hide its gaps.

    Args:
        spans: Sorted by start.
    """
    busy: dict[int, float] = {}
    for span in spans:
        busy[span.stream] = busy.get(span.stream, 0.0) + span.end - span.start
    gaps, reached = [], None
    for span in spans:
        if span.stream != max(busy, key=busy.__getitem__):
            continue
        if reached is not None and span.start > reached:
            gaps.append(span.start - reached)
        reached = span.end if reached is None else max(reached, span.end)
    return gaps


def measure_alone(job: Job, run: Callable[[Job, Callable[[int], None]], object]) -> dict[str, float]:
    """Run a loop by itself, with the profiler after its warm-up.

    Args:
        job: A short job, with one step more than are measured.
        run: Runs the loop, and calls a function before each step.

    Returns:
        The share of the time in which the device was idle, its longest gap in microseconds, and the peak of its memory
        in bytes.
    """
    gc.collect()
    torch.accelerator.empty_cache()
    bytes_before = torch.accelerator.memory_allocated(job.device)
    activities: set[torch.profiler.ProfilerActivity] = supported_activities()  # type: ignore[no-untyped-call]
    recorded = profile(activities=activities)
    seconds = 0.0

    def before_step(num_done: int) -> None:
        nonlocal seconds
        if num_done == job.scale.num_warmup_steps:
            job.synchronize()
            torch.accelerator.reset_peak_memory_stats(job.device)
            recorded.start()
            seconds = time.perf_counter()
        if num_done == job.scale.num_warmup_steps + job.scale.num_profiled_steps:
            job.synchronize()
            seconds = time.perf_counter() - seconds
            recorded.stop()

    run(job, before_step)
    gaps = gaps_of(spans_of(recorded))
    return {
        "idle": sum(gaps) / 1e6 / seconds,
        "gap": max(gaps, default=0.0),
        "memory": torch.accelerator.max_memory_allocated(job.device) - bytes_before,
    }


def call_before_steps(by_hand: ByHand) -> Callable[[Job, Callable[[int], None]], object]:
    """Make a function that runs a loop by hand, and calls a function before each step."""

    def run(job: Job, before_step: Callable[[int], None]) -> None:
        steps = by_hand(job)
        for number in range(job.num_steps):
            before_step(number)
            next(steps)

    return run


def measure(case: Case, device: torch.device, scale: Scale) -> dict[str, float]:
    """Measure a case in this process.

    Args:
        case: The case.
        device: The device.
        scale: The size of the job.

    Returns:
        The numbers by name.
    """
    num_steps = scale.num_warmup_steps + scale.num_steps_per_block * (scale.num_rounds + 1) + 1
    found = measure_speed(Job(device=device, scale=scale, case=case, num_steps=num_steps))
    if device.type != "cpu":
        num_steps = scale.num_warmup_steps + scale.num_profiled_steps + 1
        job = Job(device=device, scale=scale, case=case, num_steps=num_steps)
        by_hand, own = loops_of(case)
        alone = [measure_alone(job, run) for run in (call_before_steps(by_hand), own)]
        found |= {name: alone[1][name] - alone[0][name] for name in ("idle", "memory")}
        found |= {"gap": alone[1]["gap"], "gap_by_hand": alone[0]["gap"]}
    return found


def measure_in_processes(case_name: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure a case in several processes, each with its own device.

    Args:
        case_name: The name of the case.
        options: Those of this script.

    Raises:
        WrongResultError: If the processes fail, with the end of what they printed.
    """
    num_processes = CASES[case_name].num_processes
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "case.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
        arguments = ["--case", case_name, "--output", str(output), *(["--small"] if options.small else [])]
        run = subprocess.run(  # noqa: S603 -- ours
            [sys.executable, *launcher, __file__, *arguments],
            env={"OMP_NUM_THREADS": "1", **os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise WrongResultError(f"{num_processes} processes failed:\n{run.stderr[-2000:]}")
        found: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))
        return found


def measure_all(device: torch.device, scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all cases, and return the result. A case that fails does not lose the others."""
    described, skipped = machine("torch"), {}
    num_devices = 2 if device.type == "cpu" else torch.accelerator.device_count()
    if device.type == "cpu":
        skipped = dict.fromkeys(("idle", "memory"), "not counted on a CPU")
    else:
        described["accelerator"] = torch.get_device_module(device).get_device_name(device)
    cases: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    for name, case in CASES.items():
        if case.num_processes > num_devices:
            skipped[name] = f"this machine has {num_devices} device{'s' * (num_devices > 1)}"
            continue
        sys.stderr.write(f"{name} …\n")
        try:
            with contextlib.redirect_stdout(sys.stderr):
                in_processes = case.num_processes > 1
                cases[name] = measure_in_processes(name, options) if in_processes else measure(case, device, scale)
        except Exception as error:  # noqa: BLE001 -- reported as missed; the other cases still run
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
    return {"machine": described, "bounds": BOUNDS, "cases": cases, "failed": failed, "skipped": skipped}


def misses(result: dict[str, Any]) -> list[str]:
    """Describe the bounds that are missed, and the cases that failed or were not measured precisely enough."""
    bounds = result["bounds"]
    found = [f"{name}: {reason.splitlines()[0]}" for name, reason in result.get("failed", {}).items()]
    for name, case in result.get("cases", {}).items():
        ratio, error = case["ratio"], case["error"]
        if ratio + error < bounds["ratio"]:
            found.append(f"{name}: ratio is {ratio:.4f} ± {error:.4f}, and the bound is {bounds['ratio']}")
        elif error > LARGEST_ERROR and ratio - error < bounds["ratio"]:
            found.append(f"{name}: ratio is {ratio:.4f} ± {error:.4f}, which is not precise enough: measure again")
        found += [
            f"{name}: {key} is {case[key]:.4g}, and the bound is {bounds[key]:.4g}"
            for key in ("idle", "memory")
            if key in case and case[key] > bounds[key]
        ]
    return found


def main() -> int:
    """Measure if there is an accelerator, write the result, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--small",
        action="store_true",
        help="only show that it works: print the result for a tiny model, on the CPU if need be, and check no bound",
    )
    parser.add_argument("--output", type=Path, help="where to write the result; by default docs/benchmarks/gpu.json")
    parser.add_argument("--case", choices=CASES, help="measure one case in this process, as one of several")
    options = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True)
    scale = SMALL if options.small else LARGE
    if options.case is not None:
        return measure_as_one_of_several(CASES[options.case], device, scale, options.output)
    if device is None and not options.small:
        skipped = {"gpu": "this machine has no accelerator"}
        result: dict[str, Any] = {"machine": machine("torch"), "bounds": BOUNDS, "skipped": skipped}
    else:
        result = measure_all(device or torch.device("cpu"), scale, options)
    text = json.dumps(result, indent=1) + "\n"
    if options.small:
        sys.stdout.write(json.dumps(result) + "\n")
    if options.output is not None or not options.small:
        (options.output or RESULTS / "gpu.json").write_text(text, encoding="utf-8")
    if options.small:
        return report_missed([f"{name}: {reason}" for name, reason in result["failed"].items()])
    sys.stdout.write(f"{result.get('cases') or result['skipped']}\n")
    return report_missed(misses(result))


def measure_as_one_of_several(case: Case, device: torch.device | None, scale: Scale, output: Path) -> int:
    """Measure a case together with other processes; the first of them writes the numbers."""
    local = torch.device("cpu") if device is None else torch.device(device.type, int(os.environ["LOCAL_RANK"]))
    found = measure(case, local, scale)
    if distributed.get_rank() == 0:
        output.write_text(json.dumps(found), encoding="utf-8")
    distributed.barrier()
    distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
