"""The data loader for iterable datasets, whose position a checkpoint can hold.

This is the only module that needs `torchdata`, and it is imported only for an iterable dataset. torch's own loader
cannot report the state of the dataset in each worker as of the last batch that was yielded; `StatefulDataLoader` can.
Its samplers and later epochs are not used, because with `shuffle=True`, a generator and no workers it resumes wrongly.
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
from d9d.loop.config import LoopConfig
from d9d.loop.control import InitializeDatasetResult


class IterableDataLoader(StatefulDataLoader[Any]):
    """Yields the micro-batches of an iterable dataset, and resumes from its state.

    Args:
        data: What the dataset provider returned.
        config: Holds the size of a micro-batch, the number of workers and the seed.
        dist_context: This process and its device.
        generator: What the loader draws the seeds of its workers from.
    """

    def __init__(
        self,
        data: InitializeDatasetResult,
        config: LoopConfig,
        dist_context: DistributedContext,
        generator: torch.Generator,
    ) -> None:
        self._has_begun = False
        batch_size = config.samples_per_micro_batch
        with warnings.catch_warnings():
            # The constructor calls a function that does nothing in this version of torch.
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
            super().__init__(
                _Stream(data.dataset, seed=config.seed, share=dist_context.data_parallel_rank, batch_size=batch_size),
                batch_size=batch_size,
                drop_last=True,
                collate_fn=data.collate,
                num_workers=config.data_loading.num_workers,
                worker_init_fn=ignore_signals_in_worker,
                pin_memory=has_streams(dist_context.device),
                generator=generator,
            )

    def __iter__(self) -> Any:
        """Start from the beginning, or from the state that was loaded."""
        self._has_begun = True
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last micro-batch that was yielded; empty before iteration begins."""
        # Before that, StatefulDataLoader would start its workers to ask for their state.
        return super().state_dict() if self._has_begun else {}


class _Stream(IterableDataset[Any]):
    """The dataset as the loader sees it, in the process of the loop or in a worker.

    Args:
        dataset: The wrapped dataset.
        seed: The seed of the job.
        share: The data-parallel rank.
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

    In a worker, random numbers are made a function of the seed and the position in the stream. Otherwise they would
    depend on when the worker was started, and a resumed run starts its workers later.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._num_read = 0
        self._random_state = RandomState(torch.device("cpu"))
        self._samples: Iterator[Any] | None = None

    def __next__(self) -> Any:
        worker, num_read = get_worker_info(), self._num_read
        if worker is not None and num_read % self._stream.batch_size == 0:
            position = self._stream.share, worker.id, num_read // self._stream.batch_size
            self._random_state.seed(derive_seed(self._stream.seed, "stream", *position))
        if self._samples is None:
            self._samples = iter(self._stream.dataset)
        sample = next(self._samples)
        self._num_read += 1
        return sample

    def state_dict(self) -> dict[str, Any]:
        """Return how many samples have been read, and the state of the dataset if it has one."""
        dataset = self._stream.dataset
        # A worker sends only what changed since its last micro-batch, and does not notice changes inside a list or
        # tensor that is still the same object; datasets often return such objects.
        state = copy.deepcopy(dataset.state_dict()) if isinstance(dataset, Stateful) else None
        return {"num_read": self._num_read, "dataset": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self._num_read = state_dict["num_read"]
        dataset = self._stream.dataset
        # A dataset that is its own iterator starts over in __iter__, so its state must be loaded after that. Any other
        # dataset gives its position to the iterators that it makes, so its iterator must be made after loading.
        self._samples = iter(dataset)
        dataset.load_state_dict(state_dict["dataset"])
        if self._samples is not dataset:
            self._samples = iter(dataset)
