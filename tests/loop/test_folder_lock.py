"""Two jobs cannot use one folder, and a job that has ended keeps nobody out."""

import os
from pathlib import Path

import pytest
from lock_holder import holder_of

from d9d.loop.component.checkpoint.files import CheckpointError, FolderLock
from d9d.loop.config import CheckpointingConfig

from .test_checkpoint import every_step_of
from .toy_job import configure_training, steps_saved, training_config


def test_a_second_job_is_refused(every_step: CheckpointingConfig) -> None:
    """The error names path, machine, process, start and remedy; no file changes."""
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


def test_a_killed_job_keeps_nobody_out(every_step: CheckpointingConfig) -> None:
    """Not even if a process that it has forked lives on, such as a data loader worker."""
    with holder_of(every_step.folder, child_seconds=30.0) as other:
        other.kill()
        other.join()

        assert (every_step.folder / ".lock").exists()
        assert every_step_of(every_step) == [0, 1, 2]
    assert not (every_step.folder / ".lock").exists()


@pytest.mark.parametrize("content", ["", "{", '{"host": "elsewhere", "pid": 1, "started": "long ago"}'])
def test_the_file_of_a_dead_job_locks_nothing(content: str, every_step: CheckpointingConfig) -> None:
    """The lock is in the kernel, not in the file."""
    every_step.folder.mkdir(parents=True)
    (every_step.folder / ".lock").write_text(content)

    assert every_step_of(every_step) == [0, 1, 2]


def test_a_lock_without_the_name_of_its_holder_holds(tmp_path: Path) -> None:
    """As on a full disk."""
    with holder_of(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(CheckpointError, match=r"is in use by another job \(unknown process\)"):
            FolderLock(tmp_path).acquire()


def test_a_job_that_cannot_resume_unlocks_the_folder(every_step: CheckpointingConfig) -> None:
    """For example with a different seed."""
    every_step_of(every_step)
    with pytest.raises(CheckpointError, match="seed is 7 here"):
        configure_training(training_config(every_step, seed=7)).train()

    with holder_of(every_step.folder):
        assert steps_saved(every_step.folder) == [1, 2, 3]
