"""Compares the time and memory of the catalogue compiler with glean_parser and datamodel-code-generator.

Whole processes are measured, from start to exit, in turn: each program once, then each again, so that a machine that
gets busier or hotter affects all of them. Bytecode is cached, as after an installation. Writes
docs/benchmarks/codegen.md.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from process import cost

PROJECT = Path(__file__).parents[1]
RUNS = 5
SIZES = (25, 1_000, 10_000)
LARGE = 10_000  # events
MODULE_EVENTS = 500
BOUNDS_SECONDS = {25: 0.20, 1_000: 1.2, 10_000: 12.0}
BOUND_MIB = 400
TOLERANCE = 1.03  # as close as two minima can be told apart on a machine that does other work too

OWN = (sys.executable, "-m", "d9d_codegen")
GLEAN = ("glean_parser", "translate", "-f", "kotlin", "-o", "glean", "metrics.yaml")
MODELS = (
    *("datamodel_code_generator", "--input", "schema.json", "--input-file-type", "jsonschema"),
    *("--output-model-type", "dataclasses.dataclass", "--formatters", "builtin", "--output", "models/models.py"),
)


class Program(NamedTuple):
    """A program to measure.

    Attributes:
        command: What is run.
        num_runs: How often.
        prepare: What is done before each run.
    """

    command: Sequence[str]
    num_runs: int
    prepare: Callable[[], object] = lambda: None


class Cost(NamedTuple):
    """What a program takes: the CPU seconds of each run, and the peak of its memory in MiB."""

    seconds: list[float]
    mebibytes: float

    @property
    def median(self) -> float:
        """The CPU seconds that are reported."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The CPU seconds of the least disturbed run, by which programs are compared."""
        return min(self.seconds)


def measure(programs: dict[str, Program], folder: Path) -> dict[str, Cost]:
    """Run programs in turn, each as often as it says."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for number in range(max(program.num_runs for program in programs.values())):
        for name, program in programs.items():
            if number < program.num_runs:
                program.prepare()
                found[name].append(cost(program.command, folder))
    return {name: Cost([seconds for seconds, _ in runs], max(peak for _, peak in runs)) for name, runs in found.items()}


def catalogue(num_events: int) -> str:
    """Return a catalogue whose events each have a separate context with two fields."""
    lines = ["version: 1", "package: bench.events", "modules:"]
    for first in range(0, num_events, MODULE_EVENTS):
        numbers = range(first, min(first + MODULE_EVENTS, num_events))
        name = f"part{first // MODULE_EVENTS}"
        lines += [f"  {name}:", f"    doc: Events of {name}.", "    phases: {step: {doc: A step., repeats: true}}"]
        lines.append("    contexts:")
        for number in numbers:
            lines += [
                f"      Event{number}Context:",
                f"        doc: Context of moment {number}.",
                "        fields:",
                f"          index: {{type: int, doc: The index of moment {number}.}}",
                "          note: {type: str | None, doc: What there is to say., default: None}",
            ]
        lines.append("    events:")
        for number in numbers:
            lines += [
                f"      EVENT_MOMENT_{number}:",
                f"        id: {name}.moment_{number}",
                "        phase: step",
                f"        context: Event{number}Context",
                f"        doc: Triggered at moment {number}.",
            ]
    return "\n".join(lines) + "\n"


def glean_metrics(num_events: int) -> str:
    """Return the same for glean_parser: events with two extra keys."""
    metrics: dict[str, object] = {"$schema": "moz://mozilla.org/schemas/glean/metrics/2-0-0"}
    for first in range(0, num_events, MODULE_EVENTS):
        numbers = range(first, min(first + MODULE_EVENTS, num_events))
        metrics[f"part{first // MODULE_EVENTS}"] = {
            f"moment_{number}": {
                "type": "event",
                "description": f"Triggered at moment {number}.",
                "bugs": ["https://bugzilla.mozilla.org/1"],
                "data_reviews": ["https://example.com/review"],
                "notification_emails": ["nobody@example.com"],
                "expires": "never",
                "extra_keys": {
                    "index": {"type": "quantity", "description": f"The index of moment {number}."},
                    "note": {"type": "string", "description": "What there is to say."},
                },
            }
            for number in numbers
        }
    return json.dumps(metrics, indent=1)  # JSON is YAML


def json_schema(num_events: int) -> str:
    """Return the same for datamodel-code-generator: classes with two fields."""
    definitions = {
        f"Event{number}Context": {
            "type": "object",
            "description": f"Context of moment {number}. Triggered at moment {number}.",
            "properties": {
                "index": {"type": "integer", "description": f"The index of moment {number}."},
                "note": {"type": ["string", "null"], "description": "What there is to say."},
            },
            "required": ["index"],
        }
        for number in range(num_events)
    }
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": definitions}, indent=1)


def side_by_side(num_events: int, runs: int) -> dict[str, Cost]:
    """Measure all programs on equivalent inputs; `generate` finds no files, and `check` those that it wrote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "catalogue.yaml").write_text(catalogue(num_events), encoding="utf-8")
        (folder / "pyproject.toml").write_text('[tool.d9d]\ndocs = "docs"\n', encoding="utf-8")
        (folder / "metrics.yaml").write_text(glean_metrics(num_events), encoding="utf-8")
        (folder / "schema.json").write_text(json_schema(num_events), encoding="utf-8")

        def clear() -> None:
            for made in ("bench", "docs", "glean", "models"):
                shutil.rmtree(folder / made, ignore_errors=True)
            (folder / "models").mkdir()

        num_others = runs if num_events < LARGE else 1  # they take long
        programs = {
            "generate": Program([*OWN, "generate"], runs, clear),
            "check": Program([*OWN, "check"], runs),
            "glean_parser": Program([sys.executable, "-m", *GLEAN], num_others),
            "datamodel-code-generator": Program([sys.executable, "-m", *MODELS], num_others),
        }
        return measure(programs, folder)


def report(own: dict[str, Cost], measured: dict[int, dict[str, Cost]], runs: int) -> str:
    """Return the page."""
    inputs = {"this project's catalogue": own, **{f"{size:,} events": costs for size, costs in measured.items()}}
    table = [
        f"| {size} | {name} | {cost.median:.2f} | {cost.least:.2f} | {cost.mebibytes:.0f} |"
        for size, costs in inputs.items()
        for name, cost in costs.items()
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("glean_parser", "datamodel-code-generator"))
    bounds = ", ".join(f"{seconds} s at {size:,}" for size, seconds in BOUNDS_SECONDS.items())
    return f"""<!-- Written by `make bench-codegen`. -->

# How long the compiler takes

CPU seconds of whole processes, the median and the least of {runs} runs, and peak memory in MiB, on
{platform.machine()} with Python {platform.python_version()}, and {packages}. The programs are run in turn:
each once, then each again. The inputs are equivalent: each event has a separate context with two fields. There,
`generate` finds no files and writes all of them; of this project's catalogue all files are as they should be. The two
other programs run once on the largest input.

| Input | Program | Median | Least | MiB |
|---|---|---|---|---|
{chr(10).join(table)}

Bounds on the median: {bounds} events, the first for the project's own catalogue
too; {BOUND_MIB} MiB.
`check` is to be no slower than `generate`: its least run may take {TOLERANCE - 1:.0%} more, which is as close as two
minima can be told apart. Counted in calls of functions, it does no more: a test holds it to that.
"""


def broken_bounds(own: dict[str, Cost], measured: dict[int, dict[str, Cost]]) -> list[str]:
    """Return in words what is slower or larger than it may be."""
    found = []
    for size, costs in [(25, own), *measured.items()]:
        generate, check = costs["generate"], costs["check"]
        if size in BOUNDS_SECONDS and generate.median > BOUNDS_SECONDS[size]:
            found.append(f"{size} events: generate takes {generate.median:.2f} s")
        if check.least > generate.least * TOLERANCE:
            found.append(f"{size} events: check takes {check.least:.3f} s, generate {generate.least:.3f} s")
        if max(generate.mebibytes, check.mebibytes) > BOUND_MIB:
            found.append(f"{size} events: up to {max(generate.mebibytes, check.mebibytes):.0f} MiB are taken")
    return found


def main() -> int:
    """Measure, write the page, and fail where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="how often each program runs")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of events")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/benchmarks/codegen.md", help="the page")
    options = parser.parse_args()
    cost([*OWN, "check"], PROJECT)  # leaves the bytecode behind
    own = measure({name: Program([*OWN, name], options.runs) for name in ("generate", "check")}, PROJECT)
    measured = {size: side_by_side(size, options.runs) for size in options.sizes}
    page = report(own, measured, options.runs)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    broken = broken_bounds(own, measured)
    sys.stderr.write("".join(f"too much: {line}\n" for line in broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
