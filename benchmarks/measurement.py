"""Measures pieces of code side by side in one process, describes the machine, and writes results."""

import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "docs/benchmarks"
BATCH_NANOSECONDS = 1_500_000  # long compared with reading the clock, short compared with disturbances


class WrongResultError(Exception):
    """The measured code did not do what it should."""


class Case(NamedTuple):
    """A piece of code to measure.

    Attributes:
        run: Runs the code a given number of times.
        check: Raises `WrongResultError` if the last call of `run`, with that number, did not do what it should.
    """

    run: Callable[[int], object]
    check: Callable[[int], object]


class Timing(NamedTuple):
    """What one run of a case takes: nanoseconds of CPU, a number for each round."""

    nanoseconds: list[float]

    @property
    def least(self) -> float:
        """The number of the least disturbed round, by which cases are compared."""
        return min(self.nanoseconds)

    @property
    def median(self) -> float:
        """The number of a typical round."""
        return statistics.median(self.nanoseconds)


def measure(cases: Mapping[str, Case], num_rounds: int, *, seed: int = 0) -> dict[str, Timing]:
    """Measure all cases, in a new random order each round, by the CPU time of the thread.

    If the machine becomes busier or slower, it does so for all cases, and no case always follows the same other one.

    Args:
        cases: The cases, by name.
        num_rounds: How often each is measured.
        seed: The seed of the orders.
    """
    order = random.Random(seed)  # noqa: S311 -- no secret
    sizes = {name: _batch_size(case) for name, case in cases.items()}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(num_rounds):
        for name in order.sample(list(cases), len(cases)):
            found[name].append(_run(cases[name], sizes[name]) / sizes[name])
    return {name: Timing(nanoseconds) for name, nanoseconds in found.items()}


def _batch_size(case: Case) -> int:
    """Return how often a case is run per measurement. Finding that out warms it up."""
    size = 100
    while (taken := _run(case, size)) < BATCH_NANOSECONDS / 4:
        size *= 2
    return max(1, round(size * BATCH_NANOSECONDS / taken))


def _run(case: Case, size: int) -> int:
    started = time.thread_time_ns()
    case.run(size)
    taken = time.thread_time_ns() - started
    case.check(size)
    return taken


def machine(*packages: str) -> dict[str, str]:
    """Describe the machine.

    Args:
        packages: Packages whose versions matter. Those that are not installed are left out.
    """
    described = {"processor": _processor(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in packages:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            continue
    return described


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(name: str, result: Mapping[str, Any]) -> None:
    """Write a result to a JSON file, from which `page.py` makes the page.

    Args:
        name: The name of the benchmark.
        result: Numbers and texts, in JSON's types.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def report_missed(missed: Sequence[str]) -> int:
    """Print the bounds that a result misses, and return the exit status of the benchmark.

    Args:
        missed: A description of each.
    """
    sys.stdout.writelines(f"MISSED {line}\n" for line in missed)
    return 1 if missed else 0
