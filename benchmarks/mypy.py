"""Measures what the mypy plugin adds to a run of mypy, and writes the page with the results.

It measures whole processes, from start to exit, in turn with and without the plugin, so that changes in the load of the
machine affect both. Each uses its own cache.
"""

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from process import cost

PROJECT = Path(__file__).parents[1]
RUNS = 15
NUM_FILES = 40
HANDLERS_PER_FILE = 10
BOUND_RATIO = 1.15
BOUND_IMPORT_SECONDS = 0.050

EVENTS = (
    ("EVENT_TRAIN_MODEL_STAGES_READY", "EventModelStagesReadyContext", "len(ctx.modules)"),
    ("EVENT_TRAIN_READY", "EventTrainReadyContext", "0"),
    ("EVENT_TRAIN_STEP_PRE", "EventStepContext", "ctx.stepper.current_step"),
    ("EVENT_TRAIN_OPTIMIZER_STEP_POST", "EventStepContext", "ctx.stepper.total_steps"),
    ("EVENT_TRAIN_STEP_POST", "EventStepContext", "ctx.stepper.current_step"),
)
IMPORT_OF_MYPY = "import mypy.main, mypy.build"
IMPORT_OF_PLUGIN = f"{IMPORT_OF_MYPY}; import d9d.mypy; d9d.mypy.plugin('')"


class Pair(NamedTuple):
    """The CPU seconds of runs without the plugin, and of as many with it."""

    without: list[float]
    with_plugin: list[float]

    @property
    def ratio(self) -> float:
        """How many times as long a run with the plugin takes, by the fastest run of each."""
        return min(self.with_plugin) / min(self.without)

    @property
    def difference(self) -> float:
        """What the plugin adds, by the fastest run of each."""
        return min(self.with_plugin) - min(self.without)


def module(number: int) -> str:
    """Return the source of a task whose handlers are all right."""
    constants, contexts = zip(*((constant, context) for constant, context, _ in EVENTS), strict=True)
    lines = [
        '"""A task."""',
        "from d9d.loop.control import RegisterTaskEventsContext, TrainTask",
        "from d9d.loop.event import subscribe, subscribe_annotated",
        f"from d9d.loop.event.catalogue.train import {', '.join((*constants, *sorted(set(contexts))))}",
        "",
        f"class Task{number}(TrainTask):",
        "    def register_events(self, ctx: RegisterTaskEventsContext) -> None:",
        "        subscribe_annotated(ctx.event_bus, self)",
    ]
    for index in range(HANDLERS_PER_FILE):
        constant, context, value = EVENTS[index % len(EVENTS)]
        lines += [
            f"    @subscribe({constant})",
            f"    def handle_{index}(self, ctx: {context}) -> None:",
            f"        self.seen_{index} = {value}",
        ]
    return "\n".join(lines) + "\n"


def measure_runs(folder: Path, num_runs: int) -> Pair:
    """Measure mypy over a project of many handlers, each time after an edit of one file.

    Args:
        folder: An empty folder.
        num_runs: How many runs of each are measured.
    """
    (folder / "tasks").mkdir()
    for number in range(NUM_FILES):
        (folder / "tasks" / f"task_{number}.py").write_text(module(number), encoding="utf-8")
    commands = []
    for name, setting in (("without", ""), ("with", "plugins = d9d.mypy\n")):
        settings = folder / f"{name}.ini"
        settings.write_text(f"[mypy]\nstrict = True\n{setting}", encoding="utf-8")
        commands.append([sys.executable, "-m", "mypy", f"--config-file={settings}", f"--cache-dir={name}", "tasks"])

    def edit(number: int) -> None:
        with (folder / "tasks" / f"task_{number % NUM_FILES}.py").open("a", encoding="utf-8") as file:
            file.write(f"EDIT_{number} = {number}\n")

    return in_turn(commands, folder, num_runs, edit)


def measure_imports(folder: Path, num_runs: int) -> Pair:
    """Measure a process that imports mypy, and one that imports the plugin as well.

    Args:
        folder: Where they run.
        num_runs: How many runs of each are measured.
    """
    commands = [[sys.executable, "-c", code] for code in (IMPORT_OF_MYPY, IMPORT_OF_PLUGIN)]
    return in_turn(commands, folder, num_runs, lambda _: None)


def in_turn(commands: Sequence[Sequence[str]], folder: Path, num_runs: int, prepare: Callable[[int], object]) -> Pair:
    """Run two commands in turn, and return the CPU seconds of each run except the first, which fills the caches.

    Args:
        commands: The one without the plugin, and the one with it.
        folder: Where they run.
        num_runs: How many runs of each are measured.
        prepare: Called before each round, with the number of the round.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(num_runs + 1):
        prepare(number)
        for command, taken in zip(commands, seconds, strict=True):
            taken.append(cost(command, folder, {"PYTHONPATH": str(PROJECT)}).seconds)
    return Pair(seconds[0][1:], seconds[1][1:])


def report(runs: Pair, imports: Pair) -> str:
    """Return the page."""
    rows = {
        "mypy, after an edit": runs.without,
        "mypy with `d9d.mypy`, after an edit": runs.with_plugin,
        "importing mypy": imports.without,
        "importing mypy and the plugin": imports.with_plugin,
    }
    return "\n".join(
        [
            "<!-- Written by `make bench-mypy`. -->",
            "",
            "# What the mypy plugin costs",
            "",
            f"CPU seconds of whole processes on {platform.machine()} with Python {platform.python_version()},",
            f"mypy {version('mypy')} and torch {version('torch')}, measured in turn, {len(runs.without)} times each.",
            f"The project has {NUM_FILES * HANDLERS_PER_FILE} handlers in {NUM_FILES} files; its cache is warm, and",
            "one file is edited before each run.",
            "",
            "| | fastest | median |",
            "|---|---|---|",
            *(f"| {name} | {min(each):.3f} | {statistics.median(each):.3f} |" for name, each in rows.items()),
            "",
            f"By the fastest run of each, mypy takes {runs.ratio:.2f} times as long with the plugin, and importing",
            f"the plugin adds {imports.difference * 1000:.0f} ms.",
            f"Bounds: {BOUND_RATIO} times, and {BOUND_IMPORT_SECONDS * 1000:.0f} ms.",
            "",
        ]
    )


def broken_bounds(runs: Pair, imports: Pair) -> list[str]:
    """Return a sentence for each bound that is exceeded."""
    found = []
    if runs.ratio > BOUND_RATIO:
        found.append(f"mypy takes {runs.ratio:.2f} times as long with the plugin, more than {BOUND_RATIO}")
    if imports.difference > BOUND_IMPORT_SECONDS:
        found.append(
            f"importing the plugin adds {imports.difference * 1000:.0f} ms, more than {BOUND_IMPORT_SECONDS * 1000:.0f}"
        )
    return found


def main() -> int:
    """Measure, write the page, and return 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="how many runs of each command are measured")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/benchmarks/mypy.md", help="the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = measure_runs(Path(name), options.runs)
        imports = measure_imports(Path(name), options.runs)
    page = report(runs, imports)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    broken = broken_bounds(runs, imports)
    sys.stderr.write("".join(f"bound exceeded: {line}\n" for line in broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
