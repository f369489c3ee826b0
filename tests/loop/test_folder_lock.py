"""Two jobs do not share a folder, and nothing that a job leaves behind keeps the next one out."""

import os
from pathlib import Path

import pytest
from lock_holder import holder_of

from d9d.loop.component.checkpoint.files import CheckpointError, FolderLock
from d9d.loop.config import CheckpointingConfig

from .test_checkpoint import every_step_of
from .toy_job import configure_training, steps_saved, training_config


def test_a_second_job_is_refused_and_told_of_the_first(every_step: CheckpointingConfig) -> None:
    """With the path, the machine, the process, since when, and what to do; no file changes."""
    every_step_of(every_step)
    (every_step.folder / ".staging-step-4").mkdir()  # which the other job is writing
    with holder_of(every_step.folder) as other:
        with pytest.raises(CheckpointError) as caught:
            configure_training(training_config(every_step)).train()
        message = str(caught.value)

        assert message.startswith(f"checkpointing.folder={str(every_step.folder)!r} is in use by another job (process ")
        assert f"(process {other.pid} on {os.uname().nodename}, started 20" in message
        assert message.endswith("wait for it, stop it, or choose another folder")
        assert (every_step.folder / ".staging-step-4").is_dir()


def test_a_job_that_was_killed_keeps_nobody_out(every_step: CheckpointingConfig) -> None:
    """Not even while a process lives that it has forked, such as one that reads data."""
    with holder_of(every_step.folder, child_seconds=30.0) as other:
        other.kill()
        other.join()

        assert (every_step.folder / ".lock").exists()
        assert every_step_of(every_step) == [0, 1, 2]
    assert not (every_step.folder / ".lock").exists()


@pytest.mark.parametrize("content", ["", "{", '{"host": "elsewhere", "pid": 1, "started": "long ago"}'])
def test_what_a_dead_job_has_left_is_no_lock(content: str, every_step: CheckpointingConfig) -> None:
    """The kernel keeps the lock, and not the file."""
    every_step.folder.mkdir(parents=True)
    (every_step.folder / ".lock").write_text(content)

    assert every_step_of(every_step) == [0, 1, 2]


def test_a_holder_that_has_not_said_who_it_is_is_a_holder(tmp_path: Path) -> None:
    """As one on a full disk."""
    with holder_of(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(CheckpointError, match=r"is in use by another job \(unknown process\)"):
            FolderLock(tmp_path).acquire()


def test_a_job_that_is_refused_its_checkpoint_lets_others_in(every_step: CheckpointingConfig) -> None:
    """Another seed is told, and leaves."""
    every_step_of(every_step)
    with pytest.raises(CheckpointError, match="seed is 7 here"):
        configure_training(training_config(every_step, seed=7)).train()

    with holder_of(every_step.folder):
        assert steps_saved(every_step.folder) == [1, 2, 3]
