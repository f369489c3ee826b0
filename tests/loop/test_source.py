"""Training begins with the weights that its configuration names, and goes on with its own."""

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
    """A run that is complete, with its checkpoints, and its weights as exported."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    trainer.export(tmp_path / "exported")
    return trainer


def begin(source: Path, own: CheckpointingConfig | None = None) -> tuple[Trainer, list[dict[str, torch.Tensor]]]:
    """Train from a source, with other weights than the first run's; return the weights that it begins with as well."""
    begun: list[dict[str, torch.Tensor]] = []

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_READY, lambda ctx: begun.append(weights_of(trainer.modules[0])))

    trainer = configure_training(training_config(own, source_checkpoint=source, seed=5), task=ToyTask(listen))
    trainer.train()
    return trainer, begun


@pytest.mark.parametrize("source", ["exported", "checkpoints", "checkpoints/step-3"])
def test_training_begins_with_the_weights_of_another_run(source: str, trained: Trainer, tmp_path: Path) -> None:
    """Exported, or in a checkpoint; they are there when the loop is ready, and the steps are counted from the first."""
    trainer, (begun,) = begin(tmp_path / source)

    assert same_tensors(begun, weights_of(trained.modules[0]))
    assert not same_tensors(begun, weights_of(trainer.modules[0]))
    assert trainer.stepper.current_step == 3


def test_a_run_that_goes_on_has_its_own_weights(trained: Trainer, tmp_path: Path) -> None:
    """And does not miss those that it began with."""
    own = CheckpointingConfig(folder=tmp_path / "own")
    first, _ = begin(tmp_path / "exported", own)
    shutil.rmtree(tmp_path / "exported")

    _, (begun,) = begin(tmp_path / "exported", own)

    assert same_tensors(begun, weights_of(first.modules[0]))


def test_weights_that_are_not_there_are_told_before_the_model_is_built(tmp_path: Path) -> None:
    """With the path."""
    provider = ToyModelProvider()

    with pytest.raises(CheckpointError, match=r"source_checkpoint=.*nowhere' contains neither a checkpoint nor"):
        configure_training(training_config(source_checkpoint=tmp_path / "nowhere"), model_provider=provider)

    assert provider.num_built == 0


def test_weights_of_another_model_are_refused(trained: Trainer, tmp_path: Path) -> None:
    """With each difference."""
    trainer = configure_training(
        training_config(source_checkpoint=tmp_path / "exported"), model_provider=ToyModelProvider(num_hidden=5)
    )

    with pytest.raises(CheckpointError, match=r"model/0.weight is .* here and .* in the checkpoint"):
        trainer.train()
