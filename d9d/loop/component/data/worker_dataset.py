"""The dataset as worker processes see it."""

from typing import Any

import torch
from torch.utils.data import Dataset

from d9d.core.seed import derive_seed
from d9d.loop.component.data.batch_sampler import MicroBatchSamples
from d9d.loop.component.random_state import RandomState


class WorkerDataset(Dataset[Any]):
    """Makes what samples draw at random a function of the seed and of their place in the run.

    Without it the random numbers of a worker would go on from wherever the worker began, and a resumed run, whose
    workers begin later, would draw others.

    Attributes:
        dataset: The dataset itself.

    Args:
        dataset: The dataset itself.
        seed: Where all random numbers of the job come from.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self._seed = seed
        self._random_state = RandomState(torch.device("cpu"))

    def __getitems__(self, samples: MicroBatchSamples) -> list[Any]:
        """Read the samples of one micro-batch, in a worker process.

        Args:
            samples: Their indices, and their place.

        Returns:
            The samples.
        """
        self._random_state.seed(derive_seed(self._seed, "samples", samples.step, samples.number))
        if hasattr(self.dataset, "__getitems__"):
            read: list[Any] = self.dataset.__getitems__(samples)
            return read
        return [self.dataset[index] for index in samples]
