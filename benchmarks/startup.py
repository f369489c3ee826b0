"""Measures what a training job costs from the start of its process to the end of its first step, in each library.

Every process runs the same small job (see `startup_job.py`), and so imports and builds what a real run needs. The
reference is a plain PyTorch loop. A process that loads more modules later, such as those that write checkpoints, does
not pay for them here.
"""

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys

from measurement import PROJECT, WrongResultError, machine, report_missed, write_result
from startup_job import JOBS

NUM_ROUNDS = 10
BY_HAND = "by hand"
PACKAGES = ("torch", "pydantic", "accelerate", "pytorch-ignite", "lightning", "transformers")
PEERS = {"Accelerate": "accelerate", "Ignite": "ignite", "Lightning": "lightning", "Transformers": "transformers"}
BOUNDS = {"d9d": 0.25}
"""Seconds of CPU over the plain loop, in the same run."""
ROUNDING = 1e-5
"""How far two losses may differ. Fused optimizers round differently."""


def run(name: str) -> dict[str, float]:
    """Run a job in its own process, on one thread, and return what it measured."""
    # Without this variable Python keeps the bytecode, as it does for an installed package.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    finished = subprocess.run(  # noqa: S603 -- ours
        [sys.executable, "-W", "ignore", PROJECT / "benchmarks/startup_job.py", name],
        env={**environment, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise WrongResultError(f"{name}: the job failed with status {finished.returncode}:\n{finished.stderr}")
    measured: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def measure(num_rounds: int) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Run all jobs in a new random order each round.

    Args:
        num_rounds: How often each job is run. One more round comes first and is not counted: it fills the caches.

    Returns:
        What each job measured in each round, and why jobs were left out.

    Raises:
        WrongResultError: If a job has another loss after its first step than the plain loop.
    """
    libraries = {
        "Ignite": "ignite",
        "Lightning": "lightning",
        "Accelerate": "accelerate",
        "Transformers": "transformers",
    }
    skipped = {name: "not installed" for name, each in libraries.items() if importlib.util.find_spec(each) is None}
    names = [name for name in JOBS if name not in skipped]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    order = random.Random(0)  # noqa: S311 -- no secret
    expected = run(BY_HAND)["loss"]
    for number in range(num_rounds + 1):
        for name in order.sample(names, len(names)):
            measured = run(name)
            if abs(measured["loss"] - expected) > ROUNDING:
                raise WrongResultError(f"{name}: the loss after the first step is {measured['loss']}, not {expected}")
            if number:
                found[name].append(measured)
    return found, skipped


def main() -> int:
    """Measure, write the result, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="how often each job is run")
    options = parser.parse_args()
    found, skipped = measure(options.rounds)
    seconds = {name: [each["seconds"] for each in rounds] for name, rounds in found.items()}
    memory = {name: statistics.median(each["mib"] for each in rounds) for name, rounds in found.items()}
    cases = {
        name: {
            "least": min(each),
            "over": min(each) - min(seconds[BY_HAND]),
            "median_over": statistics.median(map(float.__sub__, each, seconds[BY_HAND])),
            "over_mib": memory[name] - memory[BY_HAND],
        }
        for name, each in seconds.items()
    }
    result = {"machine": machine(*PACKAGES), "unit": "s", "rounds": options.rounds, "cases": cases, "bounds": BOUNDS}
    write_result("startup", {**result, "skipped": skipped})
    for name, case in cases.items():
        bound = f" of at most {BOUNDS[name]}" if name in BOUNDS else ""
        over = f"{case['over']:+.3f} over by hand{bound} (median {case['median_over']:+.3f})"
        sys.stdout.write(f"{name:14} {case['least']:6.2f} s, {over}, {case['over_mib']:+.1f} MiB\n")
    return report_missed(
        [
            f"{name}: {cases[name]['over']:.3f} s over by hand, and the bound is {bound}"
            for name, bound in BOUNDS.items()
            if cases[name]["over"] > bound
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
