"""In a notebook the progress is a widget, and messages go to the output of the cell.

The classes of tqdm are the real ones. What they find in the kernel of a notebook, IPython and ipywidgets, are stand-ins
with the same names, which record what they are given: the packages themselves bring a hundred megabytes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

KERNEL = """
import sys, types


class ZMQInteractiveShell:
    pass


class Widget:
    value = bar_style = ""

    def __init__(self, **settings):
        self.layout, self.style = types.SimpleNamespace(), types.SimpleNamespace()
        vars(self).update(settings)


displayed = []
modules = {
    "IPython": {"get_ipython": ZMQInteractiveShell},
    "IPython.display": {"display": displayed.append},
    "ipykernel": {},
    "ipykernel.zmqshell": {},
}
if "without-widgets" not in sys.argv:
    modules["ipywidgets"] = {name: type(name, (Widget,), {}) for name in ("HTML", "FloatProgress", "HBox")}
for name, contents in modules.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)
"""

CELL = """
import json
from d9d.loop.config import ReportingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE
from tests.loop.toy_job import ToyTask, configure_training, training_config


def talk(ctx):
    if ctx.stepper.current_step == 2:
        print("printed")
        if "fail" in sys.argv:
            raise SystemExit


trainer = configure_training(
    training_config(total_steps=4, reporting=ReportingConfig(period_steps=2, json_lines=None)),
    task=ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_PRE, talk)),
)
try:
    trainer.train()
finally:
    found = [[bar.value, bar.max, bar.bar_style, left.value, right.value] for left, bar, right in
             (container.children for container in displayed)]
    print(json.dumps(found))
"""


class Cell(NamedTuple):
    """What a cell leaves in a notebook.

    Attributes:
        lines: The lines of its output.
        errors: The lines that the notebook shows on red ground.
        bars: Of each bar its value, its largest value, its style, and the texts on both sides.
    """

    lines: list[str]
    errors: list[str]
    bars: list[list[Any]]


def run(*options: str) -> Cell:
    """Run the cell in a process that takes itself for the kernel of a notebook."""
    ended = subprocess.run(
        [sys.executable, "-c", KERNEL + CELL, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    *lines, bars = ended.stdout.splitlines()
    return Cell(lines, ended.stderr.splitlines(), json.loads(bars))


def test_a_notebook_shows_a_widget_with_the_numbers_of_the_last_report() -> None:
    """And no line for each report. What is printed is in the output as it is."""
    cell = run()

    ((value, largest, style, left, right),) = cell.bars
    assert (value, largest, style, left) == (4, 4, "success", "train\u2007100%")
    assert right.replace("\u2007", " ").startswith(" 4/4 [")
    assert ", step 4: loss " in right.replace("\u2007", " ")
    assert "learning_rate" in right  # the output of a cell has room for all numbers
    first, printed, last = cell.lines
    assert first.startswith("train: 4 steps, ")
    assert printed == "printed"
    assert last.startswith("train: finished after 4 of 4 steps")
    assert cell.errors == []


def test_the_widget_of_a_run_that_fails_stays_and_says_so() -> None:
    """With the steps that are complete."""
    cell = run("fail")

    ((value, largest, style, left, _),) = cell.bars
    assert (value, largest, style, left.replace("\u2007", " ")) == (2, 4, "danger", "train  50%")


def test_without_ipywidgets_there_is_a_line_for_each_report() -> None:
    """A bar of characters would fill the output of the cell, and tqdm says what to install."""
    cell = run("without-widgets")

    assert cell.bars == []
    assert cell.lines == ["printed"]
    reported = [line for line in cell.errors if line.startswith("train: step ")]
    assert [line.split(":")[1] for line in reported] == [" step 2 of 4", " step 4 of 4"]
    assert any("IProgress not found. Please update jupyter and ipywidgets." in line for line in cell.errors)


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of an editor would make tqdm choose the bar of a terminal."""
    for name in [each for each in os.environ if each == "QT_API" or each.startswith("SPYDER")]:
        monkeypatch.delenv(name)
