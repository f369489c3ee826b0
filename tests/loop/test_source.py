"""Training starts with the weights that `source_checkpoint` names, and resumes with its own."""

import shutil
from pathlib import Path

import pytest
import torch

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY
from d9d.loop.run import Trainer

from .toy_job import ToyModelProvider, ToyTask, configure_training, same_tensors, training_config, weights_of


@pytest.fixture
def trained(every_step: CheckpointingConfig, tmp_path: Path) -> Trainer:
    """A finished run, with its checkpoints and its exported weights."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    trainer.export(tmp_path / "exported")
    return trainer


def start_from(source: Path, own: CheckpointingConfig | None = None) -> tuple[Trainer, list[dict[str, torch.Tensor]]]:
    """Train from a source with another seed; return the trainer, and the weights that it started with."""
    initial: list[dict[str, torch.Tensor]] = []

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_READY, lambda ctx: initial.append(weights_of(trainer.modules[0])))

    trainer = configure_training(training_config(own, source_checkpoint=source, seed=5), task=ToyTask(listen))
    trainer.train()
    return trainer, initial


@pytest.mark.parametrize("source", ["exported", "checkpoints", "checkpoints/step-3"])
def test_training_starts_with_the_weights_of_another_run(source: str, trained: Trainer, tmp_path: Path) -> None:
    """From an export or a checkpoint; they are loaded before `train.ready`, and steps count from the first."""
    trainer, (initial,) = start_from(tmp_path / source)

    assert same_tensors(initial, weights_of(trained.modules[0]))
    assert not same_tensors(initial, weights_of(trainer.modules[0]))
    assert trainer.stepper.current_step == 3


def test_a_resumed_run_loads_its_own_weights(trained: Trainer, tmp_path: Path) -> None:
    """The source may be gone."""
    own = CheckpointingConfig(folder=tmp_path / "own")
    first, _ = start_from(tmp_path / "exported", own)
    shutil.rmtree(tmp_path / "exported")

    _, (initial,) = start_from(tmp_path / "exported", own)

    assert same_tensors(initial, weights_of(first.modules[0]))


def test_missing_weights_are_reported_before_the_model_is_built(tmp_path: Path) -> None:
    """With the path."""
    provider = ToyModelProvider()

    with pytest.raises(CheckpointError, match=r"source_checkpoint=.*nowhere' does not exist: set it to a folder of"):
        configure_training(training_config(source_checkpoint=tmp_path / "nowhere"), model_provider=provider)

    assert provider.num_built == 0


def test_weights_of_another_model_are_refused(trained: Trainer, tmp_path: Path) -> None:
    """With each difference, before the first step."""
    config = training_config(source_checkpoint=tmp_path / "exported")

    with pytest.raises(CheckpointError, match=r"'0.weight' is float32\[5, 3\] in the model and float32"):
        configure_training(config, model_provider=ToyModelProvider(num_hidden=5))
