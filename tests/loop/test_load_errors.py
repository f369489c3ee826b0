"""A checkpoint that cannot be loaded is not called damaged unless it is: the error says the true reason."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from d9d.loop.component.checkpoint import storage
from d9d.loop.component.checkpoint.files import CheckpointError, TensorReader
from d9d.loop.component.checkpoint.source import ExportedWeights
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig

from .toy_job import ToyTask, configure_training, steps_saved, training_config

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the checkpoints of a run, which every user can access; those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "checkpoints"
        folder.mkdir()
        folder.chmod(0o777)
        configure_training(training_config(saving_to(folder))).train()
        yield folder


def saving_to(folder: Path) -> CheckpointingConfig:
    return CheckpointingConfig(folder=folder, period_steps=1)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as a user without the permissions of the administrator."""
    user = os.geteuid()
    os.seteuid(NOBODY if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def error_of_resuming(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught, without_privileges():
        configure_training(training_config(saving_to(folder))).train()
    return str(caught.value)


@pytest.mark.parametrize("name", ["state.json", "tensors.json", "__0_0.distcp"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(name: str, folder: Path) -> None:
    """Nobody should remove the newest checkpoint for it."""
    (folder / "step-3" / name).chmod(0)

    message = error_of_resuming(folder)

    assert message.startswith(f"{folder / 'step-3'} cannot be read (")
    assert "PermissionError: [Errno 13] Permission denied" in message
    assert message.endswith("): it may be intact: make its files readable on all machines, and run again")


@pytest.mark.parametrize("name", ["checkpoint.json", "."])
def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(name: str, folder: Path) -> None:
    """Its steps would be trained again from an older one, and it would be replaced."""
    (folder / "step-3" / name).chmod(0)

    message = error_of_resuming(folder)

    (folder / "step-3").chmod(0o755)
    assert message.startswith(f"cannot resume from {folder / 'step-3'}: its checkpoint.json cannot be read ([Errno 13]")
    assert message.endswith("no older one is taken in its place: make it readable and run again, or move it elsewhere")
    assert steps_saved(folder)[-1] == 3


def test_weights_that_may_not_be_read_are_not_called_damaged(folder: Path) -> None:
    """As with checkpoints."""
    trainer = configure_training(training_config())
    trainer.train()
    trainer.export(folder / "weights")
    for file in (folder / "weights").glob("*.safetensors"):
        file.chmod(0)

    with pytest.raises(CheckpointError, match=r"Permission denied.*it may be intact"), without_privileges():
        ExportedWeights.find(folder / "weights")


NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_lack_of_memory_is_named(error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it occurs while tensors are read."""

    def fail(*args: object) -> None:
        del args
        raise error

    monkeypatch.setattr(TensorReader, "read_data", fail)

    message = error_of_resuming(folder)

    assert f"{type(error).__name__}: {error}" in message
    assert message.endswith(
        "): there is too little memory to load it, and it may be intact: free memory, or use more processes"
    )


def test_ctrl_c_while_tensors_are_read_is_no_error_of_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch wraps it like any other."""

    def interrupt(*args: object) -> None:
        del args
        raise KeyboardInterrupt

    checkpoint = Checkpoint(folder / "step-3")
    monkeypatch.setattr(TensorReader, "read_data", interrupt)

    with pytest.raises(KeyboardInterrupt):
        checkpoint.read()


def test_a_lost_connection_is_no_error_of_the_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank has died while this one was loading."""

    def lose(*args: object) -> None:
        del args
        raise RuntimeError("Connection closed by peer")

    saved = Checkpoint(folder / "step-3").open()
    monkeypatch.setattr(storage, "load_tensors", lose)

    with pytest.raises(RuntimeError, match="Connection closed by peer") as caught:
        saved.load({})
    assert not isinstance(caught.value, CheckpointError)


class Refusing(ToyTask):
    """Has state, and does not take that of another version."""

    def state_dict(self) -> dict[str, Any]:
        return {"version": 1}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        raise ValueError(f"version {state_dict['version']} is too old")


def test_an_error_of_a_users_object_is_raised_as_it_is(folder: Path) -> None:
    """With the name of the part and of the checkpoint."""
    own = saving_to(folder / "own")
    configure_training(training_config(own), task=Refusing()).train()

    with pytest.raises(ValueError, match="version 1 is too old") as caught:
        configure_training(training_config(own), task=Refusing()).train()
    path = folder / "own" / "step-3"
    assert caught.value.args == ("version 1 is too old",)
    assert f"raised by load_state_dict of 'task', for its state in {path}" in caught.value.__notes__
    assert Checkpoint(path).problem() is None
