"""Measures pieces of code side by side in one process, and says on what machine."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "docs/benchmarks"
BATCH_NANOSECONDS = 1_500_000  # long beside reading the clock, short beside what disturbs a machine


class WrongResultError(Exception):
    """What was measured did not do what it was to do."""


class Case(NamedTuple):
    """A piece of code to measure.

    Attributes:
        run: Does it as often as told.
        check: Raises `WrongResultError` if what was run last, so often, did not do what it was to do.
    """

    run: Callable[[int], object]
    check: Callable[[int], object]


class Timing(NamedTuple):
    """What doing something once takes: nanoseconds of CPU, a number for each round."""

    nanoseconds: list[float]

    @property
    def least(self) -> float:
        """That of the round that was disturbed least, by which two cases are told apart."""
        return min(self.nanoseconds)

    @property
    def median(self) -> float:
        """That of a usual round."""
        return statistics.median(self.nanoseconds)


def measure(cases: Mapping[str, Case], num_rounds: int, *, seed: int = 0) -> dict[str, Timing]:
    """Measure all cases, in a new random order each round, by the CPU time of the thread.

    A machine that grows busier or slower does so for all of them, and none always follows the same other.

    Args:
        cases: The cases, by their names.
        num_rounds: How often each is measured.
        seed: Decides the orders.
    """
    order = random.Random(seed)  # noqa: S311 -- no secret
    sizes = {name: _batch_size(case) for name, case in cases.items()}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(num_rounds):
        for name in order.sample(list(cases), len(cases)):
            found[name].append(_run(cases[name], sizes[name]) / sizes[name])
    return {name: Timing(nanoseconds) for name, nanoseconds in found.items()}


def _batch_size(case: Case) -> int:
    """Return how often a case is run at a time; finding out warms it up."""
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
    """Describe what was measured on.

    Args:
        packages: Those whose versions matter; what is not installed is left out.
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
    """Write what was found, for the page, and for whoever wants to compare.

    Args:
        name: That of the benchmark.
        result: Numbers and words, in JSON's types.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
