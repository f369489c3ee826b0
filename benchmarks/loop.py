"""Measures what a loop adds to each step of a small job, beside one written by hand and beside other libraries."""

import argparse
import contextlib
import functools
import io
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from loop_job import BATCH_SIZE, NUM_SAMPLES, Job, predict_by_hand, train_by_hand
from loop_own import orders, predict_with, train_reporting, train_with
from loop_peers import PREDICTION, TRAINING, Loop, hush
from measurement import WrongResultError, machine, write_result

NUM_ROUNDS = 10
NUM_STEPS = NUM_SAMPLES // BATCH_SIZE
PACKAGES = ("torch", "pytorch-ignite", "lightning", "accelerate", "torchtnt", "transformers")
TRAIN_BY_HAND, PREDICT_BY_HAND = "train by hand", "predict by hand"
BOUNDS = {"train, d9d": 20.0, "train, d9d with reports": 45.0, "predict, d9d": 5.0}
"""Microseconds a step over the loop written by hand, in the same run."""


class Contestant(NamedTuple):
    """A loop, the samples of its steps, and whether its numbers are to be those of the loop written by hand.

    Attributes:
        loop: The loop.
        order: The samples of each step.
        reference: The name of the loop written by hand.
        must_equal: Whether its results are to be the same bit for bit.
    """

    loop: Loop
    order: list[list[int]]
    reference: str
    must_equal: bool


def contestants(folder: Path, *, with_peers: bool) -> dict[str, Contestant]:
    """Return all loops, those written by hand first."""
    shuffled, sequential = orders(NUM_STEPS)
    reporting = functools.partial(train_reporting, folder=folder)
    own = {
        TRAIN_BY_HAND: Contestant(train_by_hand, shuffled, TRAIN_BY_HAND, must_equal=True),
        PREDICT_BY_HAND: Contestant(predict_by_hand, sequential, PREDICT_BY_HAND, must_equal=True),
        "train, d9d": Contestant(train_with, shuffled, TRAIN_BY_HAND, must_equal=True),
        "train, d9d with reports": Contestant(reporting, shuffled, TRAIN_BY_HAND, must_equal=True),
        "predict, d9d": Contestant(predict_with, sequential, PREDICT_BY_HAND, must_equal=True),
    }
    if not with_peers:
        return own
    trained = {
        f"train, {name}": Contestant(loop, shuffled, TRAIN_BY_HAND, must_equal=False) for name, loop in TRAINING.items()
    }
    predicted = {
        f"predict, {name}": Contestant(loop, sequential, PREDICT_BY_HAND, must_equal=False)
        for name, loop in PREDICTION.items()
    }
    return own | trained | predicted


def run(contestant: Contestant) -> Job:
    """Run a loop once, on one thread and without a word."""
    job = Job(NUM_STEPS, contestant.order)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        contestant.loop(job)
    if job.clock.num_ticks != NUM_STEPS:
        raise WrongResultError(f"the model ran {job.clock.num_ticks} times in place of {NUM_STEPS}")
    return job


def require_equal(name: str, job: Job, reference: Job) -> None:
    """Hold weights and outputs against those of the loop written by hand, bit for bit."""
    tensors, expected = ([*each.model.state_dict().values(), *each.outputs] for each in (job, reference))
    if not all(map(torch.equal, tensors, expected)) or len(tensors) != len(expected):
        raise WrongResultError(f"{name}: the weights or the outputs are not those of the loop written by hand")


def measure(raced: dict[str, Contestant], num_rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run all loops in a new random order each round.

    Args:
        raced: The loops; those that cannot be imported are taken out.
        num_rounds: How often each is run.

    Returns:
        The nanoseconds of each step, by loop, and why loops were taken out.
    """
    torch.set_num_threads(1)
    skipped: dict[str, str] = {}
    references: dict[str, Job] = {}
    for name, contestant in list(raced.items()):  # also warms up
        try:
            job = run(contestant)
        except ImportError as error:
            skipped[name] = str(error)
            del raced[name]
            continue
        references.setdefault(contestant.reference, job)
    order = random.Random(0)  # noqa: S311 -- no secret
    found: dict[str, list[float]] = {name: [] for name in raced}
    for _ in range(num_rounds):
        for name in order.sample(list(raced), len(raced)):
            job = run(raced[name])
            if raced[name].must_equal:
                require_equal(name, job, references[raced[name].reference])
            found[name] += job.clock.nanoseconds_per_step()
    return found, skipped


def over_by_hand(found: Mapping[str, list[float]], raced: Mapping[str, Contestant]) -> dict[str, float]:
    """Return the microseconds of each step over the loop written by hand, by the least of each."""
    return {name: (min(each) - min(found[raced[name].reference])) / 1000 for name, each in found.items()}


def main() -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="how often each loop is run")
    options = parser.parse_args()
    hush()
    with tempfile.TemporaryDirectory() as folder:
        raced = contestants(Path(folder), with_peers=True)
        found, skipped = measure(raced, options.rounds)
    over = over_by_hand(found, raced)
    result = {
        "machine": machine(*PACKAGES),
        "unit": "us",
        "rounds": options.rounds,
        "cases": {
            name: {"least": min(each) / 1000, "median": statistics.median(each) / 1000, "over": over[name]}
            for name, each in found.items()
        },
        "bounds": BOUNDS,
        "skipped": skipped,
    }
    write_result("loop", result)
    for name, each in found.items():
        bound = f" of at most {BOUNDS[name]:.0f}" if name in BOUNDS else ""
        sys.stdout.write(f"{name:24} {min(each) / 1000:8.1f} us a step, {over[name]:+.1f} over by hand{bound}\n")
    for name, reason in skipped.items():
        sys.stdout.write(f"{name:24} skipped: {reason}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
