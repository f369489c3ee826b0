"""Reading samples: data loaders, worker processes, and the transfer to the device."""

import copy
import dataclasses
import functools
import inspect
import itertools
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from d9d.core.device import has_streams
from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import Stateful
from d9d.core.seed import derive_seed
from d9d.core.stepper import Stepper
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.sampler import Epochs, MicroBatchSamples, StepBatchSampler
from d9d.loop.component.shutdown import ignore_signals_in_worker
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import InitializeDatasetResult


def _describe(data: InitializeDatasetResult, source: str = "dataset_provider") -> str:
    return f"the dataset from {source}, of type {type(data.dataset).__qualname__},"


def count_samples(data: InitializeDatasetResult, source: str = "dataset_provider") -> int:
    """Count the samples of a dataset that is read by index.

    Args:
        data: What the dataset provider returned.
        source: Names the dataset provider in errors.

    Returns:
        The number of samples.

    Raises:
        ConfigurationError: If the dataset has no length, or no samples.
    """
    if isinstance(data.dataset, IterableDataset):
        raise ConfigurationError(
            f"{_describe(data, source)} is iterable, and the number of its samples must be known here: pass a "
            "dataset with __len__ and __getitem__; only training accepts an IterableDataset"
        )
    if not isinstance(data.dataset, Sized):
        raise ConfigurationError(
            f"{_describe(data, source)} has no length: define __len__ and __getitem__ on it, because the loop chooses "
            "the samples of each step by index"
        )
    num_samples = len(data.dataset)
    if num_samples == 0:
        raise ConfigurationError(
            f"{_describe(data, source)} is empty: check the paths and filters that it was built with"
        )
    return num_samples


def build_data_loader(
    data: InitializeDatasetResult, batch_sampler: StepBatchSampler, config: LoopConfig, device: torch.device
) -> DataLoader[Any]:
    """Build torch's data loader for a dataset that is read by index.

    Args:
        data: What the dataset provider returned.
        batch_sampler: Chooses the samples of each micro-batch.
        config: Holds the number of workers and the seed.
        device: Where the batches will be moved to.

    Returns:
        The data loader, which yields one micro-batch at a time.
    """
    num_workers = config.data_loading.num_workers
    return DataLoader(
        # Without workers the samples are read in the order of the run, so the global generators are exact as they are.
        WorkerDataset(data.dataset, config.seed) if num_workers else data.dataset,
        batch_sampler=batch_sampler if num_workers else _PlainLists(batch_sampler),
        collate_fn=choose_collate(data, device),
        num_workers=num_workers,
        worker_init_fn=ignore_signals_in_worker,
        pin_memory=has_streams(device),
        generator=_loader_generator(config),
    )


def choose_collate(data: InitializeDatasetResult, device: torch.device) -> Callable[[list[Any]], Any] | None:
    """Choose the function by which a data loader makes batches of samples.

    Args:
        data: What the dataset provider returned.
        device: Where the batches will be moved to.

    Returns:
        The user's function, or `None` for torch's own; on a device with streams, one whose batches a data loader with
        `pin_memory` pins whatever they contain.
    """
    return _PinnableCollate(data.collate or default_collate) if has_streams(device) else data.collate


@dataclasses.dataclass(frozen=True)
class _PinnableCollate:
    """Wraps the batches of a function for torch's data loader, which unwraps them when it pins them."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> "PinnableBatch":
        return PinnableBatch(self.collate(samples))


@dataclasses.dataclass(frozen=True)
class PinnableBatch:
    """A batch that a data loader can pin.

    torch does not look into dataclasses, and fails at tensors that cannot be pinned: those on a device, sparse ones.

    Attributes:
        batch: Tensors in mappings, lists, tuples and dataclasses, at any depth, and anything else.
    """

    batch: Any

    def pin_memory(self) -> Any:
        """Return the batch, with all tensors in pinned memory that can be; objects with this method pin themselves."""
        return map_tensors(self.batch, _pinned, method="pin_memory")


def _pinned(each: Any) -> Any:
    return each if isinstance(each, torch.Tensor) and not _can_be_pinned(each) else each.pin_memory()


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


def _can_be_pinned(tensor: torch.Tensor) -> bool:
    return tensor.is_cpu and _is_dense(tensor)


class _PlainLists(Sampler[list[int]]):
    """Yields the samples of each micro-batch without its position, which only workers need.

    Torch indexes a tensor with a plain list faster than with a subclass.
    """

    def __init__(self, batch_sampler: StepBatchSampler) -> None:
        self._batch_sampler = batch_sampler

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, self._batch_sampler)

    def __len__(self) -> int:
        return len(self._batch_sampler)


def _loader_generator(config: LoopConfig) -> torch.Generator:
    """Make the generator that a data loader draws the seeds of its workers from.

    Without one a data loader draws from the global generator each time it is iterated, and a resumed run would differ.
    """
    return torch.Generator().manual_seed(derive_seed(config.seed, "data_loader"))


class WorkerDataset(Dataset[Any]):
    """Makes the random numbers that a worker draws a function of the seed and the position in the run.

    Otherwise they would depend on when the worker was started, and a resumed run starts its workers later.

    Attributes:
        dataset: The wrapped dataset.

    Args:
        dataset: The dataset to wrap.
        seed: The seed of the job.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self._seed = seed
        self._random_state = RandomState(torch.device("cpu"))

    def __getitems__(self, samples: MicroBatchSamples) -> list[Any]:
        """Read the samples of one micro-batch, in a worker process.

        Args:
            samples: Their indices, and the position of the micro-batch.

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
        loader: Yields one micro-batch at a time.
        settings: What a checkpoint and a run that resumes from it must have in common, in JSON types.
        epochs: The passes over the dataset; `None` for iterable data, which has none.
        state: The parts of a checkpoint that the data needs to resume, by name; empty if the step is enough.
    """

    loader: DataLoader[Any]
    settings: dict[str, Any]
    epochs: Epochs | None = None
    state: dict[str, Stateful] = dataclasses.field(default_factory=dict)


def load_iterable_data(
    data: InitializeDatasetResult, config: LoopConfig, dist_context: DistributedContext
) -> TrainingData:
    """Build the data loader of an `IterableDataset`, from which each rank reads its own share.

    Args:
        data: What the dataset provider returned.
        config: Holds the size of a micro-batch, the number of workers and the seed.
        dist_context: This process and its device.

    Returns:
        The loader and its state.

    Raises:
        ConfigurationError: If `torchdata` is not installed, or checkpoints are on and the dataset has no state.
    """
    if config.checkpointing is not None and not isinstance(data.dataset, Stateful):
        raise ConfigurationError(
            f"{_describe(data)} is iterable and has no state, so a checkpoint could not record the position in the "
            "data: define state_dict and load_state_dict on it, or set checkpointing to None"
        )
    if config.checkpointing is not None and config.checkpointing.period_epochs is not None:
        raise ConfigurationError(
            f"{_describe(data)} is iterable, so it has no epochs, and checkpointing.period_epochs is "
            f"{config.checkpointing.period_epochs}: use period_steps or period_minutes"
        )
    try:
        from d9d.loop.component.iterable_data import IterableDataLoader  # noqa: PLC0415 -- the extra is optional
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{_describe(data)} is iterable, which needs torchdata ({error}): run "
            "`pip install 'd9d-hooks[torchdata]'`, or define __len__ and __getitem__ on the dataset"
        ) from error
    data = dataclasses.replace(data, collate=choose_collate(data, dist_context.device))
    loader = IterableDataLoader(data, config, dist_context, _loader_generator(config))
    # The state has the position of each worker, so their number cannot change.
    settings = {"num_samples": None, "data_loading.num_workers": config.data_loading.num_workers}
    return TrainingData(loader, settings, state={"data_loader": loader})


def begin_reading(loader: DataLoader[Any], stepper: Stepper) -> Iterator[Any]:
    """Start to iterate over a data loader. Its workers are running when this returns.

    Args:
        loader: Yields one micro-batch at a time.
        stepper: Counts the steps of the run.

    Returns:
        The micro-batches. The iterator raises `RuntimeError` if the data ends before the last step.
    """
    return itertools.chain(iter(loader), _require_finished(stepper))


def _require_finished(stepper: Stepper) -> Iterator[Any]:
    if not stepper.is_finished:
        raise RuntimeError(
            f"the data ended after {stepper.current_step} of total_steps={stepper.total_steps} steps, without a full "
            "micro-batch for the next one: let the dataset start over when it ends, or set total_steps to at most "
            f"{stepper.current_step}"
        )
    yield from ()


def map_tensors(tree: Any, function: Callable[[Any], Any], *, method: str | None = None) -> Any:
    """Apply a function to each tensor of a structure.

    Args:
        tree: Tensors in mappings, lists, tuples and dataclasses, at any depth. Anything else is passed through.
        function: Returns the replacement of a tensor.
        method: Also apply the function to objects of other classes that have a method of this name.

    Returns:
        A structure of the same types. Only a mapping that cannot be copied by its class becomes a `dict`.
    """
    # `torch.utils._pytree` takes unregistered dataclasses and mappings other than `dict` for leaves, and is five times
    # slower on a batch of three tensors.
    kind = type(tree)
    if kind is tuple or kind is list:
        # Tensors directly, which saves a call for each.
        return kind(
            [
                function(each) if isinstance(each, torch.Tensor) else map_tensors(each, function, method=method)
                for each in tree
            ]
        )
    if kind is dict:
        return {
            key: function(each) if isinstance(each, torch.Tensor) else map_tensors(each, function, method=method)
            for key, each in tree.items()
        }
    if isinstance(tree, torch.Tensor) or (method is not None and callable(getattr(kind, method, None))):
        return function(tree)
    return _map_parts(tree, functools.partial(map_tensors, function=function, method=method))


def _map_parts(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to each part of an object, and return one of the same class."""
    kind = type(tree)
    if dataclasses.is_dataclass(kind):
        fields = [field.name for field in dataclasses.fields(tree) if field.init]
        return dataclasses.replace(tree, **{name: function(getattr(tree, name)) for name in fields})
    if isinstance(tree, tuple) and hasattr(kind, "_fields"):
        return kind(*map(function, tree))
    if isinstance(tree, (list, tuple)):
        return kind(map(function, tree))
    if isinstance(tree, Mapping):
        mapped = {key: function(value) for key, value in tree.items()}
        if not isinstance(tree, (dict, UserDict)):
            return mapped
        copied = copy.copy(tree)
        copied.update(mapped)
        return copied
    return tree


def list_tensors(tree: Any) -> list[torch.Tensor]:
    """List all tensors of a structure.

    Args:
        tree: As in `map_tensors`.

    Returns:
        The tensors, in the order of the structure.
    """
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(tree, note)
    return found


class DeviceTransfer:
    """Moves the micro-batches of a step to the device, each when it is requested.

    So the device holds one of them at a time. On an accelerator the copies run on their own stream: the host, which
    runs ahead of the device, queues the copy of a micro-batch while earlier ones are computed, and never waits. Only
    the stream of the computation waits for the copy. Sparse and nested tensors are copied on the stream of the
    computation, and tensors that are on the device are left alone. Objects with a method `to`, such as a
    `BatchEncoding`, a `PackedSequence` or a graph, move themselves, on the stream of the computation too.

    Args:
        device: Where the micro-batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device) if has_streams(device) else None

    def move(self, micro_batches: Iterable[Any]) -> Iterator[Any]:
        """Move micro-batches to the device.

        Args:
            micro_batches: Micro-batches on the host.

        Returns:
            The micro-batches on the device. Use each on the stream that is current when it is requested.
        """
        # A generator would keep the last micro-batch on the host.
        if self._stream is None:
            return map(functools.partial(map_tensors, function=self._moved, method="to"), micro_batches)
        return map(functools.partial(self._move_on, self._stream), micro_batches)

    def _moved(self, each: Any) -> Any:
        if isinstance(each, torch.Tensor):
            return each if each.device == self._device else each.to(self._device, non_blocking=True)
        moved = each.to(self._device, non_blocking=True) if _is_asynchronous(type(each).to) else each.to(self._device)
        if moved is None:
            raise TypeError(
                f"{type(each).__qualname__}.to, which moves a part of a micro-batch to {self._device}, returned None: "
                "let it return the moved object, as torch.Tensor.to does"
            )
        return moved

    def _move_on(self, stream: torch.Stream, micro_batch: Any) -> Any:
        copied: list[torch.Tensor] = []
        is_complete = True

        def begin(each: Any) -> Any:
            nonlocal is_complete
            if not isinstance(each, torch.Tensor) or not _is_dense(each):  # torch cannot record a stream for it
                is_complete = False
                return each
            if each.device == self._device:
                return each
            copied.append(each.to(self._device, non_blocking=True))
            return copied[-1]

        with stream:
            moved = map_tensors(micro_batch, begin, method="to")
        computing = torch.accelerator.current_stream(self._device)
        computing.wait_stream(stream)
        for tensor in copied:
            # The memory belongs to the stream of the copies. Without this it could be reused as soon as the host drops
            # the tensor, before the computation that reads it has run.
            tensor.record_stream(computing)
        return moved if is_complete else map_tensors(moved, self._moved, method="to")


@functools.cache
def _is_asynchronous(to: Callable[..., Any]) -> bool:
    """Return whether the method `to` of a class can copy without making the host wait."""
    try:
        parameters = inspect.signature(to).parameters.values()
    except ValueError:  # it is written in C
        return False
    return any(each.name == "non_blocking" or each.kind is each.VAR_KEYWORD for each in parameters)
