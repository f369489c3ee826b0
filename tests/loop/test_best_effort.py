"""Reports, traces and garbage collection never end a run: a failure is logged once, and the run continues."""

import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from d9d.loop.component import console, profiler
from d9d.loop.component.console import Console
from d9d.loop.component.sinks import JsonLines
from d9d.loop.config import ProfilingConfig, ReportingConfig, TrainingConfig

from .toy_job import configure_training, same_tensors, training_config, weights_of

ROOT = Path(__file__).parents[2]
NUM_STEPS = 6


class ToyProfile:
    """Stands for `torch.profiler.profile`, which cannot be used again in a process in which it has failed."""

    def __init__(self, **settings: Any) -> None:
        self.step_num = 0

    def __enter__(self) -> Self:
        return self

    def step(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def export_chrome_trace(self, path: str) -> None:
        Path(path).touch()


def everything(folder: Path) -> TrainingConfig:
    """Make the settings of a run that does all that it could do without."""
    return training_config(
        total_steps=NUM_STEPS,
        reporting=ReportingConfig(
            progress_bar=True, period_steps=2, json_lines=folder / "metrics.jsonl", tensorboard=folder / "tensorboard"
        ),
        profiling=ProfilingConfig(folder=folder / "traces", wait_steps=0, active_steps=2),
        garbage_collection_period_steps=2,
    )


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """The weights after a run that does nothing besides."""
    trainer = configure_training(training_config(total_steps=NUM_STEPS))
    trainer.train()
    return weights_of(trainer.modules[0])


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


CALLS = [
    *[("the console", tqdm, name) for name in ("__init__", "update", "set_postfix_str", "close")],
    *[("the console", console, name) for name in ("_describe_model", "_streams_above")],
    *[("the console", Console, name) for name in ("_open", "_write", "_warn", "_close")],
    *[("reporting.json_lines=", JsonLines, name) for name in ("_open", "_append")],
    *[("reporting.tensorboard=", SummaryWriter, name) for name in ("__init__", "add_scalar", "close")],
    *[
        ("profiling.folder=", ToyProfile, name)
        for name in ("__init__", "__enter__", "step", "__exit__", "export_chrome_trace")
    ],
    *[("garbage collection", gc, name) for name in ("collect", "freeze")],
]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("broken"), id="any"),
        pytest.param(OSError(28, "No space left on device"), id="os", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("broken", CALLS, ids=lambda call: f"{call[1].__name__}.{call[2]}")
def test_a_call_that_raises_is_logged_once_and_the_run_ends_with_the_same_weights(
    broken: tuple[str, Any, str], error: Exception, weights: dict[str, torch.Tensor], tmp_path: Path, caplog: Any
) -> None:
    """Whichever call of whichever target raises, and whatever it raises."""
    target, owner, name = broken
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(profiler, "profile", ToyProfile)
        patched.setattr(owner, name, raising(error))
        trainer = configure_training(everything(tmp_path))
        trainer.train()

    assert same_tensors(weights_of(trainer.modules[0]), weights)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(target)
    assert str(error) in warning
    assert f"of {NUM_STEPS} steps" in warning


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["ctrl-c", "exit"])
def test_ctrl_c_and_sys_exit_pass(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are requests to end, not failures of the console."""
    monkeypatch.setattr(tqdm, "update", raising(error))

    with pytest.raises(type(error)):
        configure_training(everything(tmp_path)).train()


class BrokenStream:
    """A stream whose reader is gone."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        raise BrokenPipeError

    def flush(self) -> None:
        pass


def test_a_failed_progress_bar_does_not_block_the_bars_of_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bars of a process share one lock, also with the monitor thread that `close` waits for."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", BrokenStream())
        configure_training(everything(tmp_path)).train()

    def acquire() -> None:
        with tqdm.get_lock():  # type: ignore[no-untyped-call] # tqdm's own
            pass

    thread = threading.Thread(target=acquire, daemon=True)
    thread.start()
    thread.join(timeout=10)

    assert not thread.is_alive()


SCRIPT = """
import sys, time
from pathlib import Path
import torch
from d9d.loop.config import ReportingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
from tests.loop.toy_job import ToyTask, configure_training, training_config, weights_of

def wait(ctx):
    time.sleep(0.12)  # long enough for the bar to be drawn in each step

reporting = ReportingConfig(progress_bar=True, period_steps=1, json_lines=None)
task = ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, wait))
trainer = configure_training(training_config(total_steps=6, reporting=reporting), task=task)
trainer.train()
torch.save(weights_of(trainer.modules[0]), sys.argv[1])
"""


@pytest.mark.parametrize(
    "stderr",
    [
        pytest.param("2>&-", id="closed"),
        pytest.param("", id="reader-gone"),
        pytest.param("2>/dev/full", id="disk-full", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_has_lost_its_stderr_ends_with_the_same_weights(
    stderr: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Its exit status is 0."""
    (tmp_path / "script.py").write_text(SCRIPT)
    reader, writer = os.pipe()
    with subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {stderr}', "sh", sys.executable, tmp_path / "script.py", tmp_path / "weights"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=writer,
    ) as process:
        os.close(writer)
        os.read(reader, 1)  # the first character of the bar, or the end if the shell has closed stderr
        os.close(reader)

    assert process.returncode == 0
    assert same_tensors(torch.load(tmp_path / "weights"), weights)
