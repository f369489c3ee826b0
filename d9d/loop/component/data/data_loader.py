"""The data loader of a loop: over a batch sampler that knows the steps, or over data that knows its own place."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import Stateful
from d9d.core.seed import derive_seed
from d9d.core.stepper import Stepper
from d9d.loop.component.data.batch_sampler import StepBatchSampler
from d9d.loop.component.data.device_transfer import takes_pinned_memory
from d9d.loop.component.data.worker_dataset import WorkerDataset
from d9d.loop.component.ending.stop_signal import stand_apart
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import InitializeDatasetResult


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The data of a training run.

    Attributes:
        loader: Yields one micro-batch after the other.
        settings: What a checkpoint must share with this run to be gone on from, in JSON's types.
        state: The parts of a checkpoint that the data needs to go on, by name; none where the step alone decides.
    """

    loader: DataLoader[Any]
    settings: dict[str, Any]
    state: dict[str, Stateful] = dataclasses.field(default_factory=dict)


def load_iterable_data(
    data: InitializeDatasetResult, config: LoopConfig, dist_context: DistributedContext
) -> TrainingData:
    """Build the data loader of an `IterableDataset`, from which each rank reads its own share.

    Args:
        data: What the dataset provider returned.
        config: Says how many samples a micro-batch has and how many workers read them, and holds the seed.
        dist_context: Names the rank, and the device that the batches will go to.

    Returns:
        The loader and its state.

    Raises:
        ConfigurationError: If `torchdata` is not installed, or the dataset has no state though checkpoints need it.
    """
    try:
        from d9d.loop.component.data.iterable_data import IterableDataLoader  # noqa: PLC0415 -- the extra is optional
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the dataset of the dataset_provider, a {type(data.dataset).__qualname__}, is iterable, which takes "
            f"torchdata ({error}): run `pip install 'd9d[torchdata]'`, or define __len__ and __getitem__ on the dataset"
        ) from error
    loader = IterableDataLoader(data, config, dist_context)
    # Each worker has a place of its own in the data, so none can be added or left out.
    settings = {"num_samples": None, "data_loading.num_workers": config.data_loading.num_workers}
    return TrainingData(loader, settings, {"data_loader": loader})


def begin_reading(loader: DataLoader[Any], stepper: Stepper) -> Iterator[Any]:
    """Begin to read, with workers at work by the time this returns.

    Args:
        loader: Yields one micro-batch after the other.
        stepper: Knows how many steps there are to be.

    Returns:
        The micro-batches; asked for more than there are, it raises `RuntimeError`.
    """
    return itertools.chain(read(loader), _refuse_more(stepper))


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """Begin to iterate over a data loader.

    Torch puts a range for its profiler around each batch, which takes longer than all that the loop does in a step. So
    a plain loader that reads in this process, and pins nothing, is read from as torch does it, and without the range.

    Args:
        loader: Yields one micro-batch after the other.

    Returns:
        What `iter(loader)` would.
    """
    is_plain = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
    if is_plain and loader.num_workers == 0 and not loader.pin_memory and loader.batch_sampler is not None:
        return _read_here(loader.dataset, loader.batch_sampler, loader.collate_fn)
    return iter(loader)


def _read_here(dataset: Any, batches: Iterable[list[Any]], collate: Callable[[Any], Any]) -> Iterator[Any]:
    fetch = getattr(dataset, "__getitems__", None)
    for indices in batches:
        yield collate(fetch(indices) if fetch is not None else [dataset[index] for index in indices])


def _refuse_more(stepper: Stepper) -> Iterator[Any]:
    if not stepper.is_finished:
        raise RuntimeError(
            f"the data ended after {stepper.current_step} of total_steps={stepper.total_steps} steps, with no full "
            "micro-batch left for the next: let the dataset begin anew when it ends, or lower total_steps to "
            f"{stepper.current_step}"
        )
    yield from ()


def count_samples(data: InitializeDatasetResult) -> int:
    """Count the samples of a dataset, and refuse one that no loop can run on.

    Args:
        data: What the dataset provider returned.

    Returns:
        The number of samples.

    Raises:
        ConfigurationError: If the dataset has no length, or no samples.
    """
    if isinstance(data.dataset, IterableDataset):
        raise ConfigurationError(
            f"the dataset of the dataset_provider, a {type(data.dataset).__qualname__}, is iterable, so that the "
            "number of steps is unknown: bring one with __len__ and __getitem__; only training takes iterable data"
        )
    if not isinstance(data.dataset, Sized):
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
        worker_init_fn=stand_apart,
        pin_memory=takes_pinned_memory(device),
        # Without a generator of its own, each iteration would draw from the global one and a resumed run would differ.
        generator=torch.Generator().manual_seed(derive_seed(config.seed, "data_loader")),
    )
