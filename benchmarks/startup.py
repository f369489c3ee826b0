"""Measures what importing the loops takes in a process that has imported torch, beside other libraries."""

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys

from measurement import PROJECT, machine, write_result

NUM_ROUNDS = 5
PACKAGES = ("torch", "pydantic", "pytorch-ignite", "lightning", "accelerate", "torchtnt", "transformers")
BOUNDS = {"ms": 120, "mib": 15}
PROGRAM = """
import gc, json, resource, sys, time
import torch
{before}
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
memory_before, started = memory(), time.process_time()
import {module}
print(json.dumps([(time.process_time() - started) * 1000, memory() - memory_before]))
"""
IMPORTS = {
    "d9d": ("d9d.loop.run", ""),
    "d9d, no garbage collected": ("d9d.loop.run", "gc.disable()"),
    "Ignite": ("ignite.engine", ""),
    "Fabric": ("lightning.fabric", ""),
    "Accelerate": ("accelerate", ""),
    "TorchTNT": ("torchtnt.framework.train", ""),
    "Lightning": ("lightning.pytorch", ""),
    "Transformers": ("transformers.trainer", ""),
}
"""What is imported, and what is done before. Python collects garbage whenever enough objects have been made, torch's
own among them: it depends on what torch left behind in whose import that falls. So there is one without it as well."""


def run(name: str) -> tuple[float, float]:
    """Return the milliseconds of CPU that an import takes, and by how many MiB the peak of memory rises."""
    module, before = IMPORTS[name]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    finished = subprocess.run(  # noqa: S603 -- ours
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(module=module, before=before)],
        cwd=PROJECT,
        env={**environment, "PYTHONPATH": str(PROJECT)},
        check=True,
        capture_output=True,
        text=True,
    )
    milliseconds, mebibytes = json.loads(finished.stdout.splitlines()[-1])
    return milliseconds, mebibytes


def main() -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="how often each process is run")
    options = parser.parse_args()
    packages = {name: module.partition(".")[0] for name, (module, _) in IMPORTS.items()}
    skipped = {name: "not installed" for name, each in packages.items() if importlib.util.find_spec(each) is None}
    names = [name for name in IMPORTS if name not in skipped]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    order = random.Random(0)  # noqa: S311 -- no secret
    for number in range(options.rounds + 1):
        for name in order.sample(names, len(names)):
            taken = run(name)
            if number:  # the first fills the caches
                found[name].append(taken)
    cases = {
        name: {
            "over_ms": min(milliseconds for milliseconds, _ in each),
            "over_mib": statistics.median(mebibytes for _, mebibytes in each),
        }
        for name, each in found.items()
    }
    result = {"machine": machine(*PACKAGES), "rounds": options.rounds, "cases": cases, "bounds": BOUNDS}
    write_result("startup", {**result, "skipped": skipped})
    for name, case in cases.items():
        sys.stdout.write(f"{name:28} {case['over_ms']:7.0f} ms, {case['over_mib']:6.1f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
