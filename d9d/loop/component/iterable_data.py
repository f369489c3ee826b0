"""Samples that come in a row, from a dataset that carries its own place in it.

This module alone needs `torchdata`, and is imported only where a dataset is iterable. Of `StatefulDataLoader` it takes
what torch's own loader lacks: the state of the dataset in each worker, as of the batch that was yielded last. Its
samplers and its second epochs are not used: with `shuffle=True`, a generator and no workers it goes on wrongly.
"""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from d9d.core.device import has_streams
from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import Stateful
from d9d.core.seed import derive_seed
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.shutdown import ignore_signals_in_worker
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import InitializeDatasetResult


class IterableDataLoader(StatefulDataLoader[Any]):
    """Yields micro-batches of iterable data, and carries over a restart where it stands.

    Args:
        data: What the dataset provider returned.
        config: Says how many samples a micro-batch has and how many workers read them, and holds the seed.
        dist_context: Names the share of this process, and the device that the batches will go to.

    Raises:
        ConfigurationError: If there shall be checkpoints, and the dataset has no state for them.
    """

    def __init__(self, data: InitializeDatasetResult, config: LoopConfig, dist_context: DistributedContext) -> None:
        if config.checkpointing is not None and not isinstance(data.dataset, Stateful):
            raise ConfigurationError(
                f"the dataset of the dataset_provider, a {type(data.dataset).__qualname__}, is iterable and carries no "
                "state, so that a checkpoint could not say where to go on: define state_dict and load_state_dict on "
                "it, or set checkpointing to None"
            )
        self._has_begun = False
        batch_size = config.samples_per_micro_batch
        with warnings.catch_warnings():
            # A call of its constructor that torch has made do nothing since.
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
            super().__init__(
                _Stream(data.dataset, seed=config.seed, share=dist_context.data_parallel_rank, batch_size=batch_size),
                batch_size=batch_size,
                drop_last=True,
                collate_fn=data.collate,
                num_workers=config.data_loading.num_workers,
                worker_init_fn=ignore_signals_in_worker,
                pin_memory=has_streams(dist_context.device),
                # Without one of its own, iteration would draw from the global one and a resumed run would differ.
                generator=torch.Generator().manual_seed(derive_seed(config.seed, "data_loader")),
            )

    def __iter__(self) -> Any:
        """Begin, or go on from the state that was loaded."""
        self._has_begun = True
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return where the micro-batch that was yielded last left off, and nothing before iteration begins."""
        # Asked any earlier, the loader beneath would start its workers to find out.
        return super().state_dict() if self._has_begun else {}


class _Stream(IterableDataset[Any]):
    """The dataset as the loader sees it, in the process of the loop or in a worker.

    Args:
        dataset: The dataset itself.
        seed: Where all random numbers of the job come from.
        share: Which data-parallel share of the data is read.
        batch_size: How many samples a micro-batch has.
    """

    def __init__(self, dataset: Any, *, seed: int, share: int, batch_size: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.share = share
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Any]:
        return _Samples(self)


class _Samples(Iterator[Any]):
    """The samples of a stream, from its beginning or from a state.

    In a worker, what samples draw at random is made a function of the seed and of their place in the stream: otherwise
    it would go on from wherever the worker began, and the workers of a resumed run begin later.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._num_read = 0
        self._random_state = RandomState(torch.device("cpu"))
        self._samples: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._num_read % self._stream.batch_size == 0:
            self._seed(self._num_read // self._stream.batch_size)
        if self._samples is None:
            self._samples = iter(self._stream.dataset)
        sample = next(self._samples)
        self._num_read += 1
        return sample

    def _seed(self, number: int) -> None:
        worker = get_worker_info()
        if worker is not None:
            names = self._stream.share, worker.id, number
            self._random_state.seed(derive_seed(self._stream.seed, "stream", *names))

    def state_dict(self) -> dict[str, Any]:
        """Return how many samples have been read, and the state of the dataset if it has one."""
        dataset = self._stream.dataset
        # Workers send what has changed since the last micro-batch, and cannot see a change in what is still the same
        # list or tensor, as datasets like to hand out.
        state = copy.deepcopy(dataset.state_dict()) if isinstance(dataset, Stateful) else None
        return {"num_read": self._num_read, "dataset": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._num_read = state_dict["num_read"]
        dataset = self._stream.dataset
        # A dataset that is its own iterator begins anew when it is asked for one, so its state comes after that; of
        # any other, the iterator takes its beginning from the dataset.
        self._samples = iter(dataset)
        dataset.load_state_dict(state_dict["dataset"])
        if self._samples is not dataset:
            self._samples = iter(dataset)
