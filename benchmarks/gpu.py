"""Measures the loop on an accelerator, where there is one, beside one written by hand: tokens a second, and gaps."""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from gpu_job import Job, train_by_hand, train_with
from measurement import WrongResultError, machine, write_result
from torch import nn
from torch.profiler import profile, supported_activities

NUM_ROUNDS, NUM_STEPS = 3, 100
BOUND_RATIO, BOUND_IDLE = 0.995, 0.005
Train = Callable[[Job], nn.Module]


def idle_share(train: Train, job: Job) -> float:
    """Return the share of a run in which no kernel ran on the device, from its profile.

    Args:
        train: The loop.
        job: A short run; its first and last kernels bound what is looked at.
    """
    activities: set[torch.profiler.ProfilerActivity] = supported_activities()  # type: ignore[no-untyped-call]
    with profile(activities=activities) as recorded:
        train(job)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in recorded.events() or ()
        if event.device_type != torch.autograd.DeviceType.CPU
    )
    spans = spans[len(spans) * 2 // 3 :]  # the steps that warm up come first
    reached, idle = spans[0][0], 0.0
    for start, end in spans:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - spans[0][0])


def measure(device: torch.device, *, is_compiled: bool) -> dict[str, float]:
    """Run both loops in turn, and hold their weights against each other."""
    speeds: dict[str, list[float]] = {"by_hand": [], "own": []}
    weights: dict[str, list[torch.Tensor]] = {}
    loops: dict[str, Train] = {"by_hand": train_by_hand, "own": train_with}
    for number in range(NUM_ROUNDS):
        for name in sorted(loops, reverse=number % 2 == 1):
            job = Job(device, NUM_STEPS, is_compiled)
            weights[name] = [parameter.detach().cpu() for parameter in loops[name](job).parameters()]
            speeds[name].append(job.tokens_per_second)
        if not all(torch.isfinite(tensor).all() for tensors in weights.values() for tensor in tensors):
            raise WrongResultError("the weights are not finite")
        # Kernels that add in no fixed order keep two runs of one loop from being equal bit for bit.
        if not all(torch.allclose(*pair, atol=1e-2) for pair in zip(*weights.values(), strict=True)):
            raise WrongResultError("the two loops have come to other weights")
    idle = {name: idle_share(train, Job(device, NUM_STEPS // 10, is_compiled)) for name, train in loops.items()}
    by_hand, own = (statistics.median(speeds[name]) for name in ("by_hand", "own"))
    return {"by_hand": by_hand, "own": own, "ratio": own / by_hand, "idle": idle["own"] - idle["by_hand"]}


def main() -> int:
    """Measure if there is an accelerator, and write the result, or why there is none."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    result = {"machine": machine("torch"), "bounds": {"ratio": BOUND_RATIO, "idle": BOUND_IDLE}, "skipped": {}}
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        assert device is not None  # noqa: S101 -- for the type checker
        result["machine"]["accelerator"] = torch.get_device_module(device).get_device_name(device)
        result["cases"] = {
            f"torch.compile {'on' if is_compiled else 'off'}": measure(device, is_compiled=is_compiled)
            for is_compiled in (False, True)
        }
    else:
        result["skipped"] = {"gpu": "this machine has no accelerator"}
    write_result("gpu", result)
    sys.stdout.write(f"{result.get('cases') or result['skipped']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
