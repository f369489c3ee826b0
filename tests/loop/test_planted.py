"""Loading a checkpoint executes nothing, whatever someone has planted in it."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.source import load_weights
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


def in_torchs_metadata(step: Path, sign: Path) -> None:
    """Plant it where torch's own reader would unpickle it."""
    (step / ".metadata").write_bytes(pickle.dumps(Bomb(sign)))


def in_a_tensor(step: Path, sign: Path) -> None:
    """Plant it in the place of a tensor, with an index that fits."""
    stream = io.BytesIO()
    torch.save(Bomb(sign), stream)
    (step / "__0_0.distcp").write_bytes(stream.getvalue())
    index = json.loads((step / "tensors.json").read_text())
    for entry in index.values():
        entry["chunks"][0][3:] = [0, len(stream.getvalue())]
    (step / "tensors.json").write_text(json.dumps(index))


def in_a_bare_pickle(step: Path, sign: Path) -> None:
    """Plant it in the place of a tensor, in the format before torch's own."""
    content = pickle.dumps(Bomb(sign))
    (step / "__0_0.distcp").write_bytes(content)
    index = json.loads((step / "tensors.json").read_text())
    for entry in index.values():
        entry["chunks"][0][3:] = [0, len(content)]
    (step / "tensors.json").write_text(json.dumps(index))


def in_another_folder(step: Path, sign: Path) -> None:
    """Plant it in a file that only the index names."""
    (step.parent / "elsewhere").write_bytes(pickle.dumps(Bomb(sign)))
    index = json.loads((step / "tensors.json").read_text())
    for entry in index.values():
        entry["chunks"][0][2] = "../elsewhere"
    (step / "tensors.json").write_text(json.dumps(index))


def in_a_dtype(step: Path, sign: Path) -> None:
    """Name something of torch that is not a dtype."""
    text = (step / "tensors.json").read_text()
    (step / "tensors.json").write_text(text.replace('"float32"', '"load"'))


def in_a_dtype_of_the_state(step: Path, sign: Path) -> None:
    """Do the same in the metadata of the state."""
    text = (step / "state.json").read_text()
    (step / "state.json").write_text(text.replace('"float32"', '"load"'))


PLANTED = [
    in_torchs_metadata,
    in_a_tensor,
    in_a_bare_pickle,
    in_another_folder,
    in_a_dtype,
    in_a_dtype_of_the_state,
]


def planted(plant: Callable[[Path, Path], None], config: CheckpointingConfig, sign: Path) -> Trainer:
    """Train, plant something in the newest checkpoint, and return a trainer that would resume from it."""
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
    """Planted data is never read, or refused with its path."""
    trainer = planted(plant, every_step, tmp_path / "executed")

    if plant is in_torchs_metadata:
        trainer.train()
        assert trainer.stepper.is_finished
    else:
        with pytest.raises(CheckpointError, match=r"step-3 cannot be read \("):
            trainer.train()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_loading_weights_executes_nothing(
    plant: Callable[[Path, Path], None], every_step: CheckpointingConfig, tmp_path: Path
) -> None:
    """Inference may use weights that strangers have trained."""
    trainer = planted(plant, every_step, tmp_path / "executed")
    checkpoint = Checkpoint(every_step.folder / "step-3")

    if plant is in_torchs_metadata:
        load_weights(checkpoint, [trainer.modules[0]])
    else:
        with pytest.raises(CheckpointError, match=r"step-3 cannot be read \("):
            load_weights(checkpoint, [trainer.modules[0]])
    assert not (tmp_path / "executed").exists()


def test_unpickling_the_bomb_executes_it(tmp_path: Path) -> None:
    """Otherwise these tests would prove nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))  # noqa: S301 -- that it executes is what is shown

    assert (tmp_path / "executed").exists()
