"""Random numbers that worker processes draw are reproduced exactly."""

import random

import pytest
import torch
from torch.utils.data import Dataset

from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.data import WorkerDataset
from d9d.loop.config import CheckpointingConfig, DataLoadingConfig

from .toy_job import NUM_FEATURES, Sample, configure_training, same_tensors, training_config, weights_of

NUM_STEPS = 6


class NoisyDataset(Dataset[Sample]):
    """Samples with noise from torch and from Python, different each time they are read."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        features = torch.randn(NUM_FEATURES) + random.gauss()
        return {"features": features, "target": torch.ones(1), "index": torch.tensor(index)}


def train(checkpointing: CheckpointingConfig, num_workers: int) -> dict[str, torch.Tensor]:
    trainer = configure_training(
        training_config(checkpointing, total_steps=NUM_STEPS, data_loading=DataLoadingConfig(num_workers=num_workers)),
        dataset=NoisyDataset(),
    )
    trainer.train()
    return weights_of(trainer.modules[0])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_resumed_run_draws_the_same_noise(num_workers: int, every_step: CheckpointingConfig) -> None:
    """It depends on the position of the micro-batch, not on when a worker was started."""
    undisturbed = train(every_step, num_workers)
    for checkpoint in Checkpoint.list_in(every_step.folder):
        if checkpoint.num_steps > NUM_STEPS // 2:
            checkpoint.remove()

    assert same_tensors(undisturbed, train(every_step, num_workers))


def test_the_number_of_workers_does_not_matter(every_step: CheckpointingConfig) -> None:
    """Each micro-batch has the same noise, whichever worker reads it."""
    ends = [
        train(CheckpointingConfig(folder=every_step.folder / str(num_workers)), num_workers) for num_workers in (1, 2)
    ]

    assert same_tensors(ends[0], ends[1])


def test_a_sample_has_new_noise_in_each_step() -> None:
    """Also when a sample is read again in a later epoch."""
    trainer = configure_training(
        training_config(total_steps=20, data_loading=DataLoadingConfig(num_workers=1)), dataset=NoisyDataset()
    )
    drawn = [features for batch in trainer._loop.data_loader for features in batch["features"].tolist()]

    assert isinstance(trainer._loop.data_loader.dataset, WorkerDataset)
    assert len({tuple(features) for features in drawn}) == len(drawn) == 20 * 4
