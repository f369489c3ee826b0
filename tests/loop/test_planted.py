"""Loading a checkpoint executes nothing, whatever somebody has planted in it."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d9d.loop.component.checkpoint.export import load_weights
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.run import Trainer

from .toy_job import configure_training, training_config


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self._sign = sign

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._sign),)


def in_torch_s_metadata(step: Path, sign: Path) -> None:
    """Where torch's own reader would unpickle it."""
    (step / ".metadata").write_bytes(pickle.dumps(Bomb(sign)))


def in_a_tensor(step: Path, sign: Path) -> None:
    """In the place of a tensor, with an index that fits."""
    stream = io.BytesIO()
    torch.save(Bomb(sign), stream)
    (step / "__0_0.distcp").write_bytes(stream.getvalue())
    index = json.loads((step / "tensors.json").read_text())
    for entry in index.values():
        entry["chunks"][0][3:] = [0, len(stream.getvalue())]
    (step / "tensors.json").write_text(json.dumps(index))


def in_a_bare_pickle(step: Path, sign: Path) -> None:
    """In the place of a tensor, and older than torch's own format."""
    content = pickle.dumps(Bomb(sign))
    (step / "__0_0.distcp").write_bytes(content)
    index = json.loads((step / "tensors.json").read_text())
    for entry in index.values():
        entry["chunks"][0][3:] = [0, len(content)]
    (step / "tensors.json").write_text(json.dumps(index))


def in_another_folder(step: Path, sign: Path) -> None:
    """In a file that only the index knows."""
    (step.parent / "elsewhere").write_bytes(pickle.dumps(Bomb(sign)))
    index = json.loads((step / "tensors.json").read_text())
    for entry in index.values():
        entry["chunks"][0][2] = "../elsewhere"
    (step / "tensors.json").write_text(json.dumps(index))


def in_a_number_format(step: Path, sign: Path) -> None:
    """As a name that torch knows and that is no number format."""
    text = (step / "tensors.json").read_text()
    (step / "tensors.json").write_text(text.replace('"float32"', '"load"'))


def in_a_number_format_of_the_state(step: Path, sign: Path) -> None:
    """The same in the outline of the state."""
    text = (step / "state.json").read_text()
    (step / "state.json").write_text(text.replace('"float32"', '"load"'))


PLANTED = [
    in_torch_s_metadata,
    in_a_tensor,
    in_a_bare_pickle,
    in_another_folder,
    in_a_number_format,
    in_a_number_format_of_the_state,
]


def planted(plant: Callable[[Path, Path], None], config: CheckpointingConfig, sign: Path) -> Trainer:
    """Train, plant something in the newest checkpoint, and return a trainer that would go on from it."""
    configure_training(training_config(config)).train()
    step = config.folder / "step-3"
    plant(step, sign)
    manifest = json.loads((step / "checkpoint.json").read_text())
    manifest["files"] = {path.name: path.stat().st_size for path in step.iterdir() if path.name != "checkpoint.json"}
    (step / "checkpoint.json").write_text(json.dumps(manifest))
    assert Checkpoint(step).problem() is None
    return configure_training(training_config(config))


@pytest.mark.parametrize("plant", PLANTED)
def test_resuming_executes_nothing(
    plant: Callable[[Path, Path], None], every_step: CheckpointingConfig, tmp_path: Path
) -> None:
    """What is planted is either never looked at, or refused with the path."""
    trainer = planted(plant, every_step, tmp_path / "executed")

    if plant is in_torch_s_metadata:
        trainer.train()
        assert trainer.stepper.is_finished
    else:
        with pytest.raises(CheckpointError, match=r"step-3 cannot be read \("):
            trainer.train()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_taking_the_weights_executes_nothing(
    plant: Callable[[Path, Path], None], every_step: CheckpointingConfig, tmp_path: Path
) -> None:
    """The same holds for inference, which may take weights that strangers trained."""
    trainer = planted(plant, every_step, tmp_path / "executed")
    checkpoint = Checkpoint(every_step.folder / "step-3")

    if plant is in_torch_s_metadata:
        load_weights(checkpoint, [trainer.modules[0]])
    else:
        with pytest.raises(CheckpointError, match=r"step-3 cannot be read \("):
            load_weights(checkpoint, [trainer.modules[0]])
    assert not (tmp_path / "executed").exists()


def test_the_bomb_goes_off_where_pickles_are_read(tmp_path: Path) -> None:
    """Else these tests would prove nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))  # noqa: S301 -- that it executes is what is shown

    assert (tmp_path / "executed").exists()
