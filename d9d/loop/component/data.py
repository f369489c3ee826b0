"""Reading samples: data loaders, worker processes, iterable datasets, and the transfer to the device."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from d9d.core.device import has_streams
from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import Stateful
from d9d.core.seed import derive_seed
from d9d.core.stepper import Stepper
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.sampler import MicroBatchSamples, StepBatchSampler
from d9d.loop.component.shutdown import ignore_signals_in_worker
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import InitializeDatasetResult


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
        from d9d.loop.component.iterable_data import IterableDataLoader  # noqa: PLC0415 -- the extra is optional
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the dataset of the dataset_provider, a {type(data.dataset).__qualname__}, is iterable, which takes "
            f"torchdata ({error}): run `pip install 'd9d-hooks[torchdata]'`, or define __len__ and __getitem__ on the "
            "dataset"
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
        worker_init_fn=ignore_signals_in_worker,
        pin_memory=has_streams(device),
        # Without a generator of its own, each iteration would draw from the global one and a resumed run would differ.
        generator=torch.Generator().manual_seed(derive_seed(config.seed, "data_loader")),
    )


def map_tensors(tree: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Call a function for each tensor of a structure.

    Args:
        tree: Tensors in mappings, lists, tuples and dataclasses, at any depth; anything else stays as it is.
        function: What takes the place of a tensor.

    Returns:
        A structure of the same kind.
    """
    match tree:
        case torch.Tensor():
            return function(tree)
        case tuple() if hasattr(tree, "_fields"):
            return type(tree)(*(map_tensors(value, function) for value in tree))
        case list() | tuple():
            return type(tree)([map_tensors(value, function) for value in tree])
        case Mapping():
            return {key: map_tensors(value, function) for key, value in tree.items()}
        case _ if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
            fields = [field.name for field in dataclasses.fields(tree) if field.init]
            return dataclasses.replace(tree, **{name: map_tensors(getattr(tree, name), function) for name in fields})
        case _:
            return tree


def list_tensors(tree: Any) -> list[torch.Tensor]:
    """List all tensors of a structure.

    Args:
        tree: As for `map_tensors`.

    Returns:
        The tensors, in its order.
    """
    found: list[torch.Tensor] = []
    map_tensors(tree, found.append)
    return found


def move_to_device(batch: Any, device: torch.device) -> Any:
    """Move all tensors of a batch to a device, without waiting where they come from pinned memory.

    Args:
        batch: Tensors in mappings, lists, tuples and dataclasses, at any depth; anything else stays as it is.
        device: Where the tensors go.

    Returns:
        A batch of the same structure.
    """

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.device == device else tensor.to(device, non_blocking=True)

    return map_tensors(batch, move)


class DeviceTransfer:
    """Moves the micro-batches of a step to the device, each when it is asked for.

    So there is room for one of them at a time. On an accelerator copies run on a stream of their own: the host, which
    is ahead of the device, sends a micro-batch while those before it are computed, and waits for none. The stream of
    the computations waits for each.

    Args:
        device: Where the micro-batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device) if has_streams(device) else None

    def move(self, micro_batches: Iterable[Any]) -> Iterator[Any]:
        """Move micro-batches to the device, one after the other.

        Args:
            micro_batches: What the data loader yields.

        Returns:
            The micro-batches on the device; each to be used in the stream that is current when it is taken.
        """
        return map(self._move, micro_batches)

    def _move(self, micro_batch: Any) -> Any:
        if self._stream is None:
            return move_to_device(micro_batch, self._device)
        with self._stream:
            moved = move_to_device(micro_batch, self._device)
        computing = torch.accelerator.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in list_tensors(moved):
            # Their memory belongs to the stream of the copies, which would use it again once the host lets go of them,
            # though the computations that read them may not have run by then.
            tensor.record_stream(computing)
        return moved
