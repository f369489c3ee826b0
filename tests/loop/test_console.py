"""A run says what it does, in a pipe, on a terminal and to `logging`, and nothing tears its progress bar."""

import fcntl
import logging
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm.auto import tqdm

from d9d.core.dist_context import DistributedContext
from d9d.loop.component.console import format_numbers
from d9d.loop.config import CheckpointingConfig, ReportingConfig
from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventStepContext
from d9d.loop.run import Inference, Trainer

from .toy_job import (
    StoppedError,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    training_config,
)

ROOT = Path(__file__).parents[2]
REPORTING = ReportingConfig(progress_bar=False, period_steps=2, json_lines=None)
SPEED = r"steps/s \d+\.\d\d, samples/s \d+\.\d\d"

SCRIPT = """
import logging, sys, time, warnings
from pathlib import Path
from d9d.loop.config import CheckpointingConfig, ReportingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
from tests.loop.toy_job import ToyTask, configure_training, training_config

def talk(ctx):
    time.sleep(0.03)
    if ctx.stepper.current_step == 9:
        print("printed")
        print("printed ", end="")
        print("in two parts")
        print("printed to stderr", file=sys.stderr)
        logging.getLogger("user").warning("logged")
        warnings.warn("a warning")

if sys.argv[2:]:
    logging.basicConfig(level="INFO", format="[%(levelname)s] %(message)s")
trainer = configure_training(
    training_config(
        CheckpointingConfig(folder=Path(sys.argv[1]), period_steps=8),
        total_steps=12,
        reporting=ReportingConfig(period_steps=4, json_lines=Path(sys.argv[1]).parent / "metrics.jsonl"),
    ),
    task=ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, talk)),
)
trainer.train()
"""
TALK = ["printed", "printed in two parts", "printed to stderr", "logged"]


@pytest.fixture(name="command")
def _command(tmp_path: Path) -> list[str]:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    return [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "checkpoints")]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def stderr_of(command: list[str]) -> list[str]:
    """Run a script without a terminal, and return the lines of its stderr."""
    run = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stderr.splitlines()


def test_a_run_in_a_pipe_says_how_it_starts_what_it_does_and_how_it_ends(command: list[str], tmp_path: Path) -> None:
    """Nothing of `logging` is configured. A second run is complete already, and says so."""
    first, *lines, last = [line for line in stderr_of(command) if line.startswith("train")]
    checkpoints = tmp_path / "checkpoints"

    assert first == (
        f"train: 12 steps, 4 samples each, on cpu, 1 process; 21 parameters in float32, weights as the model "
        f"provider made them; checkpoints in {checkpoints}; reports in {tmp_path / 'metrics.jsonl'}"
    )
    expected = [
        rf"train: step 4 of 12: loss \d\.\d+, gradient_norm .*, learning_rate 0\.001, {SPEED}",
        re.escape(f"train: step 8 of 12: saved {checkpoints / 'step-8'}"),
        rf"train: step 8 of 12: loss .*, {SPEED}",
        re.escape(f"train: step 12 of 12: saved {checkpoints / 'step-12'}"),
        rf"train: step 12 of 12: loss .*, {SPEED}",
    ]
    assert len(lines) == len(expected)
    assert [line for line, pattern in zip(lines, expected, strict=True) if not re.fullmatch(pattern, line)] == []
    assert re.fullmatch(r"train: finished after 12 of 12 steps, in \d\d:\d\d: all steps are done", last)
    assert stderr_of(command) == [
        f"resumed from {checkpoints / 'step-12'}",
        "train: nothing to do after 12 of 12 steps: all steps are done",
    ]


def test_where_logging_is_configured_each_message_appears_once_in_its_format(command: list[str]) -> None:
    """The handlers of the script take all of them."""
    lines = [line for line in stderr_of([*command, "configured"]) if "train: " in line]

    assert len(lines) == 7
    assert all(line.startswith("[INFO] train: ") for line in lines)


def on_terminal(command: list[str], num_columns: int) -> tuple[list[str], list[str]]:
    """Run a script on a terminal.

    Returns:
        The lines that are left on the screen, and all bars that were drawn.
    """
    terminal, side_of_process = pty.openpty()
    fcntl.ioctl(side_of_process, termios.TIOCSWINSZ, struct.pack("HHHH", 40, num_columns, 0, 0))
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=side_of_process, stderr=side_of_process)
    os.close(side_of_process)
    written = bytearray()
    while True:
        try:
            written += os.read(terminal, 1 << 16)
        except OSError:  # how a terminal ends on Linux
            break
    os.close(terminal)
    assert process.wait() == 0
    lines, bars = [], []
    for line in written.decode().removesuffix("\r\n").split("\r\n"):
        shown = ""
        for part in line.split("\r"):  # writing continues at the left end
            shown = part + shown[len(part) :]
            bars += [shown.rstrip()] * ("%|" in shown)
        lines.append(shown.rstrip())
    return lines, bars


@pytest.mark.parametrize(
    ("num_columns", "configured"),
    [
        pytest.param(80, [], id="80"),
        pytest.param(160, ["configured"], id="160-logging-configured"),
        pytest.param(160, [], id="160", marks=pytest.mark.slow),
        pytest.param(80, ["configured"], id="80-logging-configured", marks=pytest.mark.slow),
    ],
)
def test_no_line_tears_the_bar_of_a_terminal(command: list[str], num_columns: int, configured: list[str]) -> None:
    """Prints, warnings and messages stand above it, each in a line. It fits, and names the step of its numbers."""
    lines, bars = on_terminal([*command, *configured], num_columns)
    texts = [line.partition("] ")[2] if configured and line.startswith("[") else line for line in lines]

    assert [texts.count(text) for text in TALK] == [1] * len(TALK)
    assert sum(line.endswith("UserWarning: a warning") for line in lines) == 1
    assert [line for line in texts if "%|" in line] == [texts[-2]]  # the last bar stays
    assert texts[-1].startswith("train: finished after 12 of 12 steps")
    assert len([line for line in texts if "saved" in line]) == 2
    assert max(map(len, bars)) <= num_columns
    assert re.search(r"^train 100%\|.*\| 12/12 \[.*step/s\], step 12: loss \d\.\d{4}", texts[-2])
    assert any(re.search(r"\| (5|6|7|8)/12 .*, step 4: loss ", bar) for bar in bars)
    assert ("learning_rate 0.001" in texts[-2]) == (num_columns == 160)
    assert "steps/s" not in texts[-2]  # the bar has the rate already


def test_the_bar_counts_a_step_when_its_handlers_have_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Also if one fails: the bar that stays and the last line have the same number."""
    counted = []
    others = {*tqdm._instances}  # type: ignore[attr-defined] # bars of runs that other tests have left open

    def compare(ctx: EventStepContext) -> None:
        (bar,) = {*tqdm._instances} - others  # type: ignore[attr-defined]
        counted.append((bar.n, ctx.stepper.current_step))
        if ctx.stepper.current_step == 2:
            raise StoppedError("no more")

    reporting = ReportingConfig(progress_bar=True, period_steps=1, json_lines=None)
    with pytest.raises(StoppedError):
        train(
            training_config(total_steps=4, reporting=reporting),
            ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, compare)),
        )

    assert counted == [(0, 0), (1, 1), (2, 2)]
    assert "| 2/4 [" in capsys.readouterr().err.split("\r")[-1]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "d9d.loop.component.console"]


def train(config: Any, task: ToyTask | None = None) -> Trainer:
    trainer = configure_training(config, task=task)
    trainer.train()
    return trainer


def test_a_resumed_run_says_where_it_starts(every_step: CheckpointingConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Its first line has the number of steps that are complete."""

    def fail(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            raise StoppedError("no more")

    config = training_config(every_step, reporting=REPORTING)
    with pytest.raises(StoppedError):
        train(config, ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_PRE, fail)))
    failed = messages(caplog)[-1]
    caplog.clear()
    train(config)

    assert re.fullmatch(r"train: failed after 1 of 3 steps, in 00:\d\d: no more", failed)
    assert messages(caplog)[0].startswith("train: resumed after 1 of 3 steps, 4 samples each, on cpu, 1 process; ")


def test_the_first_line_says_where_the_weights_come_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those that a checkpoint of training has come from there; a checkpoint of inference has none."""

    def said(run: Trainer | Inference) -> str:
        caplog.clear()
        run.train() if isinstance(run, Trainer) else run.infer()
        found = re.search(r"21 parameters in float32, (.*?);", messages(caplog)[0])
        assert found is not None, messages(caplog)
        return found[1]

    made = "weights as the model provider made them"
    trained, exported = CheckpointingConfig(folder=tmp_path / "trained"), tmp_path / "exported"
    trainer = configure_training(training_config(trained, reporting=REPORTING))

    assert said(trainer) == made
    trainer.export(exported)
    assert said(configure_training(training_config(trained, reporting=REPORTING, total_steps=4))) == (
        f"weights from {trained.folder / 'step-3'}"
    )
    branch: dict[str, Any] = {"source_checkpoint": exported, "reporting": REPORTING}
    only = CheckpointingConfig(folder=tmp_path / "only", trainable_only=True)
    assert said(configure_training(training_config(only, **branch))) == f"weights from {exported}"
    assert said(configure_training(training_config(only, **branch, total_steps=4))) == (
        f"trainable weights from {only.folder / 'step-3'}, other weights from {exported}"
    )
    config = inference_config(CheckpointingConfig(folder=tmp_path / "inferred"), reporting=REPORTING)
    assert said(configure_inference(config)) == made


LINES = "".join(f"\n- {number}" for number in range(1, 10))


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (ValueError("the first line\nand more"), "the first line"),
        (ValueError("two things are wrong:\n- one\n- two"), "two things are wrong:\n- one\n- two"),
        (ValueError(f"so much:{LINES}\n- 10\n- 11"), f"so much:{LINES}\n… and 2 more lines"),
        (KeyError("key"), "KeyError: 'key'"),
        (EOFError(), "EOFError"),
        (
            ExceptionGroup("several", [ValueError("not a number"), KeyError("key")]),
            "several (2 sub-exceptions)\n- not a number\n- KeyError: 'key'",
        ),
    ],
)
def test_a_run_that_fails_says_enough_of_the_error(
    error: Exception, summary: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first line, or more if that only announces what follows or is no more than a word."""

    def fail(_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        train(training_config(reporting=REPORTING), ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_PRE, fail)))

    assert messages(caplog)[-1] == f"train: failed after 0 of 3 steps: {summary}"


def test_numbers_that_are_not_finite_are_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    """Until they are finite again."""

    class Diverging(ToyTask):
        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            is_diverged = ctx.stepper.current_step in (1, 2, 4)
            return ComputeLossResult(loss=ctx.outputs.mean() * (math.nan if is_diverged else 0.0))

    reporting = REPORTING.model_copy(update={"period_steps": 1})
    train(training_config(total_steps=5, reporting=reporting, non_finite_gradients="skip"), Diverging())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    assert warnings == [
        "train: step 2 of 5: loss nan, gradient_norm nan",
        "train: step 2 of 5: 1 step skipped so far, for gradients that were not finite",
        "train: step 3 of 5: 2 steps skipped so far, for gradients that were not finite",
        "train: step 5 of 5: loss nan, gradient_norm nan",
        "train: step 5 of 5: 3 steps skipped so far, for gradients that were not finite",
    ]


def test_only_the_main_process_speaks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The other ranks say nothing of a run in which nothing happens."""
    monkeypatch.setattr(DistributedContext, "is_main_process", False)
    caplog.set_level("INFO", logger="d9d")

    train(training_config(reporting=REPORTING))

    assert messages(caplog) == []


def test_a_level_that_a_script_has_set_stays(caplog: pytest.LogCaptureFixture) -> None:
    """So one line silences d9d."""
    caplog.set_level("WARNING", logger="d9d")

    train(training_config(reporting=REPORTING))

    assert messages(caplog) == []


def test_the_loops_own_handlers_are_listed_with_their_places() -> None:
    """They come before those of the task."""
    task = ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_PRE, torch.is_tensor))  # type: ignore[d9d-handler]
    described = str(configure_training(training_config(reporting=REPORTING), task=task).event_bus.describe())

    assert "console.py" in described
    assert "Console.write" in described
    assert described.index("Console.write") < described.index("is_tensor")


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("validation/loss", 1.23456, "validation/loss 1.2346"),
        ("peak_memory_bytes", 3 * 2.0**29, "peak memory 1.50 GiB"),
        ("skipped_steps", 0.0, ""),
        ("accuracy", 0.123456, "accuracy 0.1235"),
    ],
)
def test_numbers_are_rounded_for_people(name: str, number: float, text: str) -> None:
    """A count of nothing is left out."""
    assert format_numbers({name: number}) == text
