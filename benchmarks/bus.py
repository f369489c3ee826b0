"""Measures what triggering an event costs, compared with a `for` loop over the handlers and with other libraries."""

import argparse
import sys
from collections.abc import Iterable, Mapping

from bus_peers import (
    PEERS,
    Carrier,
    Context,
    d9d,
    d9d_bounded,
    d9d_emitter,
    d9d_facts,
    d9d_filter,
    facts_by_hand,
    for_loop,
    is_due,
)
from measurement import Case, Timing, WrongResultError, machine, measure, report_missed, write_result

NUM_ROUNDS = 100
COUNTS = (0, 1, 4, 16)
PACKAGES = ("torchtnt", "pyee", "pluggy", "psygnal", "blinker", "pytorch-ignite", "lightning")
BOUNDS = {
    **{f"emitter, {count}": bound for count, bound in zip(COUNTS, (1.0, 1.5, 1.4, 1.2), strict=True)},
    **{f"trigger, {count}": bound for count, bound in zip(COUNTS, (3.0, 1.75, 1.25, 1.10), strict=True)},
    "bounded, 0": 9.0,
    "bounded, 1": 8.0,
    "filter, 1": 1.0,
    "facts, 0": 1.0,
    "facts, 1": 1.2,
}
"""Ratios to the reference with as many handlers, in the same run."""
REFERENCES = {"filter": "is_due by hand", "facts": "facts by hand"}
"""What a case is compared with, if that is not the `for` loop."""


def case(carrier: Carrier, number: int, calls_per_time: int) -> Case:
    """Make a case that checks how often the handlers of a carrier were called."""
    context = Context()
    run = carrier(context, number)

    def check(times: int) -> None:
        if context.count != times * calls_per_time:
            raise WrongResultError(f"{context.count} calls instead of {times * calls_per_time}")
        context.count = 0

    return Case(run, check)


def own_cases() -> dict[str, Case]:
    """Return the cases of this project, and those that they are compared with."""
    made: dict[str, Case] = {}
    for count in COUNTS:
        made[f"for loop, {count}"] = case(for_loop, count, count)
        made[f"emitter, {count}"] = case(d9d_emitter, count, count)
        made[f"trigger, {count}"] = case(d9d, count, count)
        made[f"bounded, {count}"] = case(d9d_bounded, count, 2 * count)
    for count in COUNTS[:2]:
        made[f"is_due by hand, {count}"] = case(is_due, count, 0)
        made[f"filter, {count}"] = case(d9d_filter, count, 0)
        made[f"facts by hand, {count}"] = case(facts_by_hand, count, count)
        made[f"facts, {count}"] = case(d9d_facts, count, count)
    return made


def cases(peers: Iterable[str]) -> tuple[dict[str, Case], dict[str, str]]:
    """Return all cases, and why peers were left out."""
    made = own_cases()
    skipped: dict[str, str] = {}
    for count in COUNTS:
        for peer in peers:
            try:
                made[f"{peer}, {count}"] = case(PEERS[peer], count, count)
            except ImportError as error:
                skipped[peer] = str(error)
    return made, skipped


def ratios(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return the ratio of each case to its reference with as many handlers, from the least of each."""
    found = {}
    for name, timing in timings.items():
        kind, count = name.split(", ")
        found[name] = timing.least / timings[f"{REFERENCES.get(kind, 'for loop')}, {count}"].least
    return found


def main() -> int:
    """Measure, write the result, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="how often each case is measured")
    options = parser.parse_args()
    made, skipped = cases(PEERS)
    timings = measure(made, options.rounds)
    found = ratios(timings)
    result = {
        "machine": machine(*PACKAGES),
        "unit": "ns",
        "rounds": options.rounds,
        "cases": {
            name: {"least": timing.least, "median": timing.median, "ratio": found[name]}
            for name, timing in timings.items()
        },
        "bounds": BOUNDS,
        "skipped": skipped,
    }
    write_result("bus", result)
    for name, timing in timings.items():
        bound = f" of at most {BOUNDS[name]}" if name in BOUNDS else ""
        sys.stdout.write(f"{name:16} {timing.least:8.1f} ns, ratio {found[name]:.2f}{bound}\n")
    for name, reason in skipped.items():
        sys.stdout.write(f"{name:16} skipped: {reason}\n")
    missed = [name for name, bound in BOUNDS.items() if found[name] > bound]
    return report_missed([f"{name}: ratio {found[name]:.2f}, and the bound is {BOUNDS[name]}" for name in missed])


if __name__ == "__main__":
    sys.exit(main())
