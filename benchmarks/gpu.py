"""Compares the loops with loops by hand on an accelerator: tokens per second, idle time, and memory."""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from gpu_job import LARGE, SMALL, Job, Scale
from gpu_loops import LOOPS, Loop
from measurement import WrongResultError, machine, report_missed, write_result
from torch.autograd import DeviceType  # type: ignore[attr-defined] # torch's own, and in its documentation
from torch.profiler import profile, supported_activities

BOUNDS = {"ratio": 0.995, "idle": 0.005, "memory": 2**20}
"""Compared with the loop by hand: the least ratio of tokens per second, and by how much the share of idle time and the
bytes of device memory may grow."""


def idle_share(spans: Sequence[tuple[float, float]]) -> float:
    """Return the share of the time, from the start of the first span to the end of the last, that no span covers.

    Args:
        spans: The start and end of each span, sorted by start.
    """
    reached, idle = spans[0][0], 0.0
    for start, end in spans:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - spans[0][0])


def measure_idle(loop: Loop, job: Job) -> float:
    """Return the share of the measured steps in which the device was idle, from a profile.

    Args:
        loop: The loop.
        job: A short run.
    """
    activities: set[torch.profiler.ProfilerActivity] = supported_activities()  # type: ignore[no-untyped-call]
    with profile(activities=activities) as recorded:
        loop(job)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in recorded.events() or ()
        # A range that the host has named covers, on the device too, the gaps between its kernels.
        if event.device_type != DeviceType.CPU and not event.is_user_annotation
    )
    return idle_share(spans[len(spans) * job.scale.num_warmup_steps // job.total_steps :])


def require_close(results: Sequence[list[torch.Tensor]]) -> None:
    """Require that two loops end with nearly the same weights or losses."""
    if not all(torch.isfinite(tensor).all() for tensors in results for tensor in tensors):
        raise WrongResultError("the weights or the losses are not finite")
    # Some kernels add in no fixed order, so that not even two runs of one loop are equal bit for bit.
    if not all(torch.allclose(one, other, atol=1e-2) for one, other in zip(*results, strict=True)):
        raise WrongResultError("the two loops ended with different weights or losses")


def measure(pair: tuple[Loop, Loop], device: torch.device, scale: Scale, *, is_compiled: bool) -> dict[str, float]:
    """Run a loop by hand and one of this project in turn, in alternating order.

    Args:
        pair: The two loops.
        device: The device.
        scale: The size of the job.
        is_compiled: Whether the model goes through `torch.compile`.
    """
    by_hand, own = pair
    rounds: list[dict[Loop, Job]] = []
    for number in range(scale.num_rounds):
        jobs = {loop: Job(device, scale, is_compiled, scale.num_steps) for loop in pair}
        order = pair if number % 2 == 0 else pair[::-1]
        require_close([[tensor.detach().cpu() for tensor in loop(jobs[loop])] for loop in order])
        rounds.append(jobs)
    speeds = [statistics.median(jobs[loop].tokens_per_second for jobs in rounds) for loop in pair]
    found: dict[str, float] = {"by_hand": speeds[0], "own": speeds[1], "ratio": speeds[1] / speeds[0]}
    if device.type != "cpu":
        idle = [measure_idle(loop, Job(device, scale, is_compiled, scale.num_profiled_steps)) for loop in pair]
        found["idle"] = idle[1] - idle[0]
        # In the first round the loop that runs first pays for memory that libraries keep.
        found["memory"] = statistics.median(jobs[own].peak_bytes - jobs[by_hand].peak_bytes for jobs in rounds)
    return found


def measure_all(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Measure all loops, with and without `torch.compile`, and return the result."""
    described, skipped = machine("torch"), {}
    if device.type == "cpu":
        skipped = dict.fromkeys(("idle", "memory"), "not counted on a CPU")
    else:
        described["accelerator"] = torch.get_device_module(device).get_device_name(device)
    cases = {
        f"{name}, torch.compile {'on' if is_compiled else 'off'}": measure(pair, device, scale, is_compiled=is_compiled)
        for name, pair in LOOPS.items()
        for is_compiled in (False, True)
    }
    return {"machine": described, "bounds": BOUNDS, "cases": cases, "skipped": skipped}


def misses(result: dict[str, Any]) -> list[str]:
    """Describe the bounds that are missed."""
    bounds = result["bounds"]
    return [
        f"{name}: {key} is {case[key]:.4g}, and the bound is {bounds[key]:.4g}"
        for name, case in result.get("cases", {}).items()
        for key in bounds
        if key in case and (case[key] < bounds[key] if key == "ratio" else case[key] > bounds[key])
    ]


def main() -> int:
    """Measure if there is an accelerator, write the result, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--small",
        action="store_true",
        help="only show that it works: print the result for a tiny model, on the CPU if need be, and check no bound",
    )
    options = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True)
    if options.small:
        result = measure_all(device or torch.device("cpu"), SMALL)
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    if device is None:
        skipped = {"gpu": "this machine has no accelerator"}
        result = {"machine": machine("torch"), "bounds": BOUNDS, "skipped": skipped}
    else:
        result = measure_all(device, LARGE)
    write_result("gpu", result)
    sys.stdout.write(f"{result.get('cases') or result['skipped']}\n")
    return report_missed(misses(result))


if __name__ == "__main__":
    sys.exit(main())
