"""Measures the catalogue's compiler beside glean_parser and datamodel-code-generator, and writes what came out.

Whole processes are measured, from start to exit, one after the other: the median of their CPU seconds, and the peak of
their memory. Bytecode is in place, as after an installation.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
RUNS = 5
MODULE_EVENTS = 500
BOUNDS_SECONDS = {25: 0.20, 1_000: 1.2, 10_000: 12.0}
BOUND_MIB = 400


class Cost(NamedTuple):
    """What a process takes: the median of its CPU seconds, and its greatest peak of memory in MiB."""

    seconds: float
    mebibytes: float


def measure(command: Sequence[str], folder: Path, runs: int, prepare: Callable[[], object]) -> Cost:
    """Runs a command several times.

    Raises:
        RuntimeError: It fails.
    """
    seconds, peaks = [], []
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(runs):
        prepare()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 -- ours
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} in {folder}")
        seconds.append(usage.ru_utime + usage.ru_stime)
        peaks.append(usage.ru_maxrss / 1024)
    return Cost(statistics.median(seconds), max(peaks))


def catalogue(num_events: int) -> str:
    """Returns a catalogue whose events each have a context of their own, with two fields."""
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
    """Returns the same for glean_parser: events with two extra keys."""
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
    """Returns the same for datamodel-code-generator: classes with two fields."""
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


def rows(folder: Path, num_events: int, runs: int) -> dict[str, Cost]:
    """Measures all programs on equivalent inputs."""
    (folder / "catalogue.yaml").write_text(catalogue(num_events), encoding="utf-8")
    (folder / "pyproject.toml").write_text('[tool.d9d]\ndocs = "docs"\n', encoding="utf-8")
    (folder / "metrics.yaml").write_text(glean_metrics(num_events), encoding="utf-8")
    (folder / "schema.json").write_text(json_schema(num_events), encoding="utf-8")

    def clear() -> None:
        for made in ("bench", "docs", "glean", "models"):
            shutil.rmtree(folder / made, ignore_errors=True)
        (folder / "models").mkdir()

    own = [sys.executable, "-m", "d9d_codegen"]
    glean = [sys.executable, "-m", "glean_parser", "translate", "-f", "kotlin", "-o", "glean", "metrics.yaml"]
    model = [
        "--input",
        "schema.json",
        "--input-file-type",
        "jsonschema",
        "--output-model-type",
        "dataclasses.dataclass",
    ]
    other = [
        sys.executable,
        "-m",
        "datamodel_code_generator",
        *model,
        "--formatters",
        "builtin",
        "--output",
        "models/models.py",
    ]
    num_others = runs if num_events <= 1_000 else 1  # noqa: PLR2004 -- they take long
    return {
        "generate": measure([*own, "generate"], folder, runs, clear),
        "check": measure([*own, "check"], folder, runs, lambda: None),
        "glean_parser": measure(glean, folder, num_others, clear),
        "datamodel-code-generator": measure(other, folder, num_others, clear),
    }


def report(own: dict[str, Cost], measured: dict[int, dict[str, Cost]], runs: int) -> str:
    """Returns the page."""
    table = [
        f"| this project's catalogue | `{name}` | {c.seconds:.2f} | {c.mebibytes:.0f} |" for name, c in own.items()
    ]
    for num_events, costs in measured.items():
        for name, cost in costs.items():
            shown = f"`{name}`" if name in own else name
            table.append(f"| {num_events:,} events | {shown} | {cost.seconds:.2f} | {cost.mebibytes:.0f} |")
    packages = ", ".join(f"{name} {version(name)}" for name in ("glean_parser", "datamodel-code-generator"))
    return "\n".join(
        [
            "<!-- Written by `make bench-codegen`. -->",
            "",
            "# How long the compiler takes",
            "",
            f"CPU seconds of whole processes, median of {runs}, and peak memory in MiB, measured one after the other",
            f"on {platform.machine()} with Python {platform.python_version()}, beside {packages}.",
            "The inputs are equivalent: each event has a context of its own, with two fields. The two others run once",
            "on the largest input.",
            "",
            "| Input | Program | CPU seconds | MiB |",
            "|---|---|---|---|",
            *table,
            "",
            f"Bounds: {', '.join(f'{seconds} s at {size:,}' for size, seconds in BOUNDS_SECONDS.items())} events (the",
            f"first: the project's own catalogue), {BOUND_MIB} MiB, and `check` no slower than `generate`.",
            "",
        ]
    )


def broken_bounds(own: dict[str, Cost], measured: dict[int, dict[str, Cost]]) -> list[str]:
    """Returns in words what is slower or larger than it may be."""
    found = []
    for size, costs in {25: own, **measured}.items():
        generate, check = costs["generate"], costs["check"]
        if size in BOUNDS_SECONDS and generate.seconds > BOUNDS_SECONDS[size]:
            found.append(f"{size} events: generate takes {generate.seconds:.2f} s")
        if check.seconds > generate.seconds * 1.1:  # as close as two medians can be told apart
            found.append(f"{size} events: check takes {check.seconds:.2f} s, generate {generate.seconds:.2f} s")
        if generate.mebibytes > BOUND_MIB:
            found.append(f"{size} events: generate takes {generate.mebibytes:.0f} MiB")
    return found


def main() -> int:
    """Measures, writes the page, and fails where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="how often each program runs")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000], help="numbers of events")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/benchmarks/codegen.md", help="the page")
    options = parser.parse_args()
    program = [sys.executable, "-m", "d9d_codegen"]
    measure([*program, "check"], PROJECT, 1, lambda: None)  # leaves the bytecode behind
    own = {name: measure([*program, name], PROJECT, options.runs, lambda: None) for name in ("generate", "check")}
    measured = {}
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            measured[size] = rows(Path(folder), size, options.runs)
    page = report(own, measured, options.runs)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    broken = broken_bounds(own, measured)
    sys.stderr.write("".join(f"too much: {line}\n" for line in broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
