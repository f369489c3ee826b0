"""The benchmarks of the loop and of the first step measure equal work, and report each bound that is missed."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def loop() -> Any:
    """Import the benchmark of the loop by its path, since the tests have a package of the same name."""
    path = Path(__file__).parents[2] / "benchmarks" / "loop.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_the_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({}, []),
        ({"predict, d9d": 12.5}, ["predict, d9d: 12.5 us over by hand, and its bound is 12.0"]),
        ({"train, Fabric": 20.0}, ["train, d9d: 25.0 us over by hand, and train, Fabric is 20.0"]),
    ],
)
def test_the_loop_misses_its_bounds_or_the_time_of_fabric(
    loop: Any, found: dict[str, float], missed: list[str]
) -> None:
    """A loop at the bound, or as fast as Fabric, misses nothing."""
    over = {"train, d9d": 25.0, "train, d9d with reports": 60.0, "predict, d9d": 12.0, "train, Fabric": 25.0}

    assert loop.misses({**over, **found}) == missed


def test_without_fabric_only_the_bounds_count(loop: Any) -> None:
    """A library that is not installed has no time."""
    assert loop.misses({"train, d9d": 25.0, "train, d9d with reports": 60.0, "predict, d9d": 12.0}) == []


def test_the_first_step_by_hand_and_in_the_loop_has_one_loss() -> None:
    """Each job runs in its own process, and measures CPU time and memory."""
    startup = importlib.import_module("startup")

    by_hand, own = startup.run("by hand"), startup.run("d9d")

    assert own["loss"] == pytest.approx(by_hand["loss"], abs=startup.ROUNDING)
    assert own["seconds"] > 0
    assert own["mib"] > 0
