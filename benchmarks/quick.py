"""Checks the bus and the loop against bounds in seconds, and fails only past twice a bound.

Other work on the machine changes even ratios. What a change has made twice as slow shows all the same.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import bus
import loop
from measurement import measure

FAILING = 2.0
BUS_BOUNDS = {name: bound * 1.1 for name, bound in bus.BOUNDS.items()}
LOOP_BOUNDS = {"train, d9d": 0.3, "train, d9d with reports": 0.5, "predict, d9d": 0.5}
"""What a step adds to that of the loop by hand, as a share of it, in the same run."""


def bus_ratios(num_rounds: int) -> dict[str, float]:
    """Return the ratio of each case to its reference."""
    found = bus.ratios(measure(bus.own_cases(), num_rounds))
    return {name: found[name] for name in BUS_BOUNDS}


def loop_shares(num_rounds: int) -> dict[str, float]:
    """Return what a step adds to that of the loop by hand, as a share of it."""
    with tempfile.TemporaryDirectory() as folder:
        raced = loop.contestants(Path(folder), with_peers=False)
        found, _ = loop.measure(raced, num_rounds)
    return {name: min(found[name]) / min(found[raced[name].reference]) - 1 for name in LOOP_BOUNDS}


def main() -> int:
    """Measure, print all numbers, and fail past twice a bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is measured")
    options = parser.parse_args()
    bounds = BUS_BOUNDS | LOOP_BOUNDS
    found = bus_ratios(4 * options.rounds) | loop_shares(options.rounds)
    sys.stdout.write("Bus: ratio to a `for` loop. Loop: what a step adds, as a share of the loop by hand.\n")
    for name, ratio in found.items():
        past = ratio / bounds[name]
        verdict = "" if past <= 1 else " OVER" if past <= FAILING else " FAILED: more than twice the bound"
        sys.stdout.write(f"{name:24} {ratio:6.2f}, at most {bounds[name]:.2f}{verdict}\n")
    worst = max(ratio / bounds[name] for name, ratio in found.items())
    return 1 if worst > FAILING else 0


if __name__ == "__main__":
    sys.exit(main())
