"""Measures what a loop adds to each step of a small job, compared with a loop by hand and with other libraries."""

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
from measurement import WrongResultError, machine, report_missed, write_result

from d9d.loop.event.catalogue.train import EVENT_TRAIN_GRADIENTS_READY, EVENT_TRAIN_LOSS_READY

NUM_ROUNDS = 10
NUM_STEPS = NUM_SAMPLES // BATCH_SIZE
PACKAGES = ("torch", "pytorch-ignite", "lightning", "accelerate", "torchtnt", "transformers")
TRAIN_BY_HAND, PREDICT_BY_HAND = "train by hand", "predict by hand"
BOUNDS = {"train, d9d": 35.0, "train, d9d with reports": 60.0, "predict, d9d": 12.0}
"""Microseconds per step over the loop by hand, in the same run."""
PEER_BOUNDS = {"train, d9d": "train, Fabric"}
"""Loops that take at most as long as another one, in the same run."""


class Contestant(NamedTuple):
    """A loop, its data, and what its result is compared with.

    Attributes:
        loop: The loop.
        order: The samples of each step.
        reference: The name of the loop by hand that does the same.
        must_equal: Whether its weights and outputs must equal those of the reference bit for bit.
    """

    loop: Loop
    order: list[list[int]]
    reference: str
    must_equal: bool


def contestants(folder: Path, *, with_peers: bool) -> dict[str, Contestant]:
    """Return all loops, those by hand first."""
    shuffled, sequential = orders(NUM_STEPS)
    reporting = functools.partial(train_reporting, folder=folder)
    hearing_losses = functools.partial(train_with, heard=EVENT_TRAIN_LOSS_READY)
    # This measures the norm as well, which nothing else in the job needs.
    hearing_gradients = functools.partial(train_with, heard=EVENT_TRAIN_GRADIENTS_READY)
    own = {
        TRAIN_BY_HAND: Contestant(train_by_hand, shuffled, TRAIN_BY_HAND, must_equal=True),
        PREDICT_BY_HAND: Contestant(predict_by_hand, sequential, PREDICT_BY_HAND, must_equal=True),
        "train, d9d": Contestant(train_with, shuffled, TRAIN_BY_HAND, must_equal=True),
        "train, d9d with reports": Contestant(reporting, shuffled, TRAIN_BY_HAND, must_equal=True),
        "train, d9d, loss.ready heard": Contestant(hearing_losses, shuffled, TRAIN_BY_HAND, must_equal=True),
        "train, d9d, gradients.ready heard": Contestant(hearing_gradients, shuffled, TRAIN_BY_HAND, must_equal=True),
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
    """Run a loop once, without output."""
    job = Job(NUM_STEPS, contestant.order)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        contestant.loop(job)
    if job.clock.num_ticks != NUM_STEPS:
        raise WrongResultError(f"the model ran {job.clock.num_ticks} times instead of {NUM_STEPS}")
    return job


def require_equal(name: str, job: Job, reference: Job) -> None:
    """Require the weights and outputs of the loop by hand, bit for bit."""
    tensors, expected = ([*each.model.state_dict().values(), *each.outputs] for each in (job, reference))
    if not all(map(torch.equal, tensors, expected)) or len(tensors) != len(expected):
        raise WrongResultError(f"{name}: the weights or the outputs differ from those of the loop by hand")


def measure(raced: dict[str, Contestant], num_rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run all loops in a new random order each round.

    Args:
        raced: The loops. Those that cannot be imported are removed.
        num_rounds: How often each is run.

    Returns:
        The nanoseconds per step of each loop, and why loops were removed.
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
    """Return the microseconds per step over the loop by hand, from the least of each."""
    return {name: (min(each) - min(found[raced[name].reference])) / 1000 for name, each in found.items()}


def misses(over: Mapping[str, float]) -> list[str]:
    """Describe the bounds that are missed.

    Args:
        over: The microseconds per step of each loop over the loop by hand.
    """
    peers = {name: (over[peer], peer) for name, peer in PEER_BOUNDS.items() if peer in over}
    bounds = [(name, bound, "its bound") for name, bound in BOUNDS.items()]
    bounds += [(name, bound, peer) for name, (bound, peer) in peers.items()]
    return [
        f"{name}: {over[name]:.1f} us over by hand, and {against} is {bound:.1f}"
        for name, bound, against in bounds
        if over[name] > bound
    ]


def main() -> int:
    """Measure, write the result, and fail where a bound is missed."""
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
        "peer_bounds": PEER_BOUNDS,
        "skipped": skipped,
    }
    write_result("loop", result)
    for name, each in found.items():
        bound = f" of at most {BOUNDS[name]:.0f}" if name in BOUNDS else ""
        sys.stdout.write(f"{name:34} {min(each) / 1000:8.1f} us per step, {over[name]:+.1f} over by hand{bound}\n")
    for name, peer in PEER_BOUNDS.items():
        compared = f"{over[name] - over[peer]:+.1f} us per step compared with" if peer in over else "not compared with"
        sys.stdout.write(f"{name:24} {compared} {peer}\n")
    for name, reason in skipped.items():
        sys.stdout.write(f"{name:24} skipped: {reason}\n")
    return report_missed(misses(over))


if __name__ == "__main__":
    sys.exit(main())
