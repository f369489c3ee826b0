"""Measures what importing the loops adds to a process that has imported torch, beside other libraries."""

import argparse
import importlib.util
import random
import statistics
import sys
from typing import NamedTuple

from measurement import PROJECT, machine, write_result
from process import Cost, cost

NUM_ROUNDS = 7
PACKAGES = ("torch", "pydantic", "pytorch-ignite", "lightning", "accelerate", "torchtnt", "transformers")
BOUND_MILLISECONDS, BOUND_MEBIBYTES = 120, 15
TORCH = "torch alone"
OWN, OWN_UNCOLLECTED = "d9d", "d9d, no garbage collected"


class Start(NamedTuple):
    """A process that imports something after torch.

    Attributes:
        code: What it runs.
        reference: What it is compared with.
    """

    code: str
    reference: str = TORCH


UNCOLLECTED = "import gc; gc.disable(); import torch"
STARTS = {
    TORCH: Start("import torch"),
    "torch alone, no garbage collected": Start(UNCOLLECTED),
    OWN: Start("import torch; import d9d.loop.run"),
    OWN_UNCOLLECTED: Start(f"{UNCOLLECTED}; import d9d.loop.run", "torch alone, no garbage collected"),
    "Ignite": Start("import torch; import ignite.engine"),
    "Fabric": Start("import torch; import lightning.fabric"),
    "Accelerate": Start("import torch; import accelerate"),
    "TorchTNT": Start("import torch; import torchtnt.framework.train"),
    "Lightning": Start("import torch; import lightning.pytorch"),
    "Transformers": Start("import torch; from transformers import Trainer"),
}
"""Python collects garbage whenever enough objects have been made, torch's own among them: it depends on what torch left
behind in whose import that falls. So the loops are measured without it as well."""
MODULES = {"Ignite": "ignite", "Fabric": "lightning", "Accelerate": "accelerate", "TorchTNT": "torchtnt"}
MODULES |= {"Lightning": "lightning", "Transformers": "transformers"}


def main() -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="how often each process is run")
    options = parser.parse_args()
    skipped = {name: "not installed" for name, module in MODULES.items() if importlib.util.find_spec(module) is None}
    names = [name for name in STARTS if name not in skipped]
    found: dict[str, list[Cost]] = {name: [] for name in names}
    order = random.Random(0)  # noqa: S311 -- no secret
    for number in range(options.rounds + 1):
        for name in order.sample(names, len(names)):
            taken = cost(
                [sys.executable, "-W", "ignore", "-c", STARTS[name].code], PROJECT, {"PYTHONPATH": str(PROJECT)}
            )
            if number:  # the first fills the caches
                found[name].append(taken)
    seconds = {name: min(each.seconds for each in costs) for name, costs in found.items()}
    memory = {name: statistics.median(each.mebibytes for each in costs) for name, costs in found.items()}
    cases = {
        name: {
            "seconds": seconds[name],
            "over_ms": (seconds[name] - seconds[STARTS[name].reference]) * 1000,
            "over_mib": memory[name] - memory[STARTS[name].reference],
        }
        for name in names
    }
    bounds = {"ms": BOUND_MILLISECONDS, "mib": BOUND_MEBIBYTES}
    write_result(
        "startup",
        {
            "machine": machine(*PACKAGES),
            "rounds": options.rounds,
            "cases": cases,
            "bounds": bounds,
            "skipped": skipped,
        },
    )
    for name, case in cases.items():
        sys.stdout.write(f"{name:34} {case['over_ms']:7.0f} ms, {case['over_mib']:6.1f} MiB over torch\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
