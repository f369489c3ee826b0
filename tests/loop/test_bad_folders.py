"""A folder that cannot be written to, at the start or later: errors name it and the remedy, and its content stays."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from d9d.loop.component.checkpoint import storage
from d9d.loop.component.checkpoint.files import CheckpointError, save_tensors
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, ConfigurationError
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE

from .toy_job import configure_training, steps_saved, training_config

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can access, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "checkpoints"
        folder.mkdir()
        yield folder


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as a user without the permissions of the administrator."""
    user = os.geteuid()
    os.seteuid(NOBODY if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def train(folder: Path, at_step_2: Callable[[], object], *, asynchronous: bool) -> str:
    """Train with a save after each step, and return the error."""
    config = CheckpointingConfig(folder=folder, period_steps=1, asynchronous=asynchronous)
    trainer = configure_training(training_config(config))

    def act(ctx: Any) -> None:
        if ctx.stepper.current_step == 1:
            trainer._loop.checkpointer.wait()
            at_step_2()

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, act)
    with pytest.raises(CheckpointError) as caught:
        trainer.train()
    return str(caught.value)


def assert_tells(message: str, folder: Path, reason: str) -> None:
    assert message.startswith(f"could not write checkpoint step-2 to {folder} (")
    assert reason in message
    assert message.endswith("); earlier checkpoints are intact: fix the cause and run again")


def assert_resumes(folder: Path) -> None:
    """Once the folder is repaired, the run resumes from the previous checkpoint."""
    steps: list[int] = []
    again = configure_training(training_config(CheckpointingConfig(folder=folder, period_steps=1)))
    again.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: steps.append(ctx.stepper.current_step))
    again.train()
    assert steps == [1, 2]


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_model_is_built(folder: Path) -> None:
    """The error names the setting, the path and the remedy."""
    folder.chmod(0o555)

    with pytest.raises(ConfigurationError) as caught, without_privileges():
        configure_training(training_config(CheckpointingConfig(folder=folder)))
    assert str(caught.value).startswith(f"checkpointing.folder={str(folder)!r} cannot be written to ([Errno 13]")
    assert str(caught.value).endswith("make it writable, or choose another folder")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_folder_that_becomes_read_only_is_reported_at_the_save(folder: Path, *, asynchronous: bool) -> None:
    """The run can resume from what it contains."""
    with ExitStack() as stack:

        def protect() -> None:
            folder.chmod(0o555)
            stack.enter_context(without_privileges())

        message = train(folder, protect, asynchronous=asynchronous)
    folder.chmod(0o777)

    assert_tells(message, folder, "Permission denied")
    assert Checkpoint(folder / "step-1").problem() is None
    assert_resumes(folder)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_folder_that_vanishes_is_reported_and_not_made_again(folder: Path, *, asynchronous: bool) -> None:
    """A lost disk has the earlier checkpoints; nobody would look for new ones in its mount point."""
    elsewhere = folder.with_name("elsewhere")
    message = train(folder, lambda: folder.rename(elsewhere), asynchronous=asynchronous)

    assert_tells(message, folder, "No such file or directory")
    assert not folder.exists()
    elsewhere.rename(folder)
    assert steps_saved(folder) == [1]
    assert_resumes(folder)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_folder_that_vanishes_during_a_save_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, asynchronous: bool
) -> None:
    """With the same message."""
    vanishes: list[bool] = []

    def lose_and_save(to: Path, tensors: Mapping[str, torch.Tensor], ranks: Any) -> None:
        if vanishes:
            shutil.rmtree(folder)
        save_tensors(to, tensors, ranks)

    monkeypatch.setattr(storage, "save_tensors", lose_and_save)
    message = train(folder, lambda: vanishes.append(True), asynchronous=asynchronous)

    assert_tells(message, folder, "No such file or directory")
    assert not folder.exists()
