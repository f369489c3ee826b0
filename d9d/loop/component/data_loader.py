"""The data loader of a loop, over a batch sampler that knows the steps."""

from collections.abc import Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from d9d.core.seed import derive_seed
from d9d.loop.component.batch_sampler import StepBatchSampler
from d9d.loop.component.device_transfer import takes_pinned_memory
from d9d.loop.component.worker_dataset import WorkerDataset
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import InitializeDatasetResult


def count_samples(data: InitializeDatasetResult) -> int:
    """Count the samples of a dataset, and refuse one that no loop can run on.

    Args:
        data: What the dataset provider returned.

    Returns:
        The number of samples.

    Raises:
        ConfigurationError: If the dataset has no length, or no samples.
    """
    if isinstance(data.dataset, IterableDataset) or not isinstance(data.dataset, Sized):
        raise ConfigurationError(
            f"the dataset of the dataset_provider, a {type(data.dataset).__qualname__}, has no length and no "
            "index: define __len__ and __getitem__ on it, since the samples of each step are chosen by index"
        )
    num_samples = len(data.dataset)
    if num_samples == 0:
        raise ConfigurationError(
            f"the dataset of the dataset_provider, a {type(data.dataset).__qualname__}, has no samples: there is "
            "nothing to run on"
        )
    return num_samples


def build_data_loader(
    data: InitializeDatasetResult, batch_sampler: StepBatchSampler, config: LoopConfig, device: torch.device
) -> DataLoader[Any]:
    """Build torch's data loader.

    Args:
        data: What the dataset provider returned.
        batch_sampler: Chooses the samples of each micro-batch.
        config: Says how many workers read them, and holds the seed.
        device: Where the batches will go.

    Returns:
        The data loader, which yields one micro-batch after the other.
    """
    num_workers = config.data_loading.num_workers
    return DataLoader(
        # The loop's own process reads in the order of the run, so there the global generators serve as they are.
        WorkerDataset(data.dataset, config.seed) if num_workers else data.dataset,
        batch_sampler=batch_sampler,
        collate_fn=data.collate,
        num_workers=num_workers,
        pin_memory=takes_pinned_memory(device),
        # Without a generator of its own, each iteration would draw from the global one and a resumed run would differ.
        generator=torch.Generator().manual_seed(derive_seed(config.seed, "data_loader")),
    )
