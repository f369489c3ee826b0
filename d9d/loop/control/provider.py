"""The interfaces through which users provide the model, the data, the optimizer and the schedule."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset

from d9d.core.dist_context import DistributedContext
from d9d.core.pipeline import StagePosition
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.event import EventBus

TResult = TypeVar("TResult")


def expect_result(result: object, kind: type[TResult], source: Callable[..., Any]) -> TResult:
    """Refuse a result of another type where it is returned, not where its parts are missed.

    Args:
        result: What was returned.
        kind: What was to be returned.
        source: The method, or the provider, that returned it.

    Returns:
        The result.

    Raises:
        TypeError: If the result is of another type.
    """
    if isinstance(result, kind):
        return result
    name = getattr(source, "__qualname__", type(source).__qualname__)
    raise TypeError(f"{name} returned a {type(result).__qualname__}: return a {kind.__qualname__}(...)")


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class RegisterModelEventsContext:
    """What a model provider subscribes its handlers with.

    Attributes:
        event_bus: The bus of the loop that is being configured.
    """

    event_bus: EventBus


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeModelStageContext:
    """What a stage of a model can be built from.

    Attributes:
        dist_context: The process and its device.
        stage: Which part of the model to build: all of it, unless the configuration asks for a pipeline.
    """

    dist_context: DistributedContext
    stage: StagePosition = dataclasses.field(default_factory=StagePosition)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeModelStageResult:
    """A stage of a model.

    Attributes:
        model: The stage. What lies on the device `meta` is initialised by the loop, after it has been parallelised and
            by `reset_parameters` of each module, so that no process ever holds more than its own part; anything else
            keeps its weights, and the loop moves it to its device. Names of weights are those of the whole model:
            two stages share none.
    """

    model: nn.Module


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ParallelizeModelStageContext:
    """What a stage of a model is prepared for running with.

    Attributes:
        dist_context: The process and its device, and the mesh of all processes.
        model: The stage, on that device or on `meta`.
        stage: Which part of the model it is.
    """

    dist_context: DistributedContext
    model: nn.Module
    stage: StagePosition = dataclasses.field(default_factory=StagePosition)


class ModelProvider(abc.ABC):
    """Brings the model of a loop, and may subscribe to the loop's events."""

    @abc.abstractmethod
    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        """Build the stage of the model that the context names.

        Its last stage returns the outputs of the model. Every other returns a tensor, or a tuple of them, and the next
        stage takes those as positional arguments in place of the inputs of the model.

        The random number generators are seeded from the configuration by then, alike in all processes. A model that is
        built under `torch.device("meta")` has the same initial weights on every mesh.

        Args:
            ctx: Where the stage will run, and which one it is.

        Returns:
            The stage.
        """

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        """Prepare the stage, in place, for running: shard it, replicate it, compile it.

        Args:
            ctx: The stage, and where it runs.
        """

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        """Subscribe to the loop's events; called once, before the first of them.

        Args:
            ctx: Holds the bus to subscribe on.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the provider: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from what `state_dict` returned when the checkpoint was taken; the model is built by then.

        Args:
            state_dict: The state.
        """


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeDatasetContext:
    """What a dataset can be built from.

    Attributes:
        dist_context: The process and its device; samples stay on the CPU, the loop moves batches to the device.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeDatasetResult:
    """The data of a loop.

    Attributes:
        dataset: Samples by index, with a length; or, for training, an `IterableDataset`.
        collate: Makes one batch of a list of samples; by default what torch's `DataLoader` does.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None


class DatasetProvider(Protocol):
    """A function, or an object that is called like one, which brings the data of a loop."""

    def __call__(self, ctx: InitializeDatasetContext, /) -> InitializeDatasetResult:
        """Build the dataset."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeOptimizerContext:
    """What an optimizer can be built from.

    Attributes:
        dist_context: The process and its device.
        modules: The stages of the model that this process holds, on its device, in the order of the pipeline; one,
            the whole model, where there is no pipeline.
    """

    dist_context: DistributedContext
    modules: list[nn.Module]

    @property
    def holds_whole_model(self) -> bool:
        """Whether all parameters of the model are here, be it in part: true unless there is a pipeline."""
        return self.dist_context.mesh_parameters.pipeline_parallel == 1

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters of all stages, frozen ones too, each once and with its name.

        Returns:
            Names, as `nn.Module.named_parameters` has them, and parameters. One that several modules share comes once,
            under its first name.

        Raises:
            ValueError: If one name stands for different parameters in two of the stages.
        """
        seen: dict[str, nn.Parameter] = {}
        identities: set[int] = set()
        for index, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                if seen.setdefault(name, parameter) is not parameter:
                    raise ValueError(
                        f"two stages of this process have a parameter named {name!r}, the later of them "
                        f"modules[{index}]: give each layer the name that it has in the whole model, for example by "
                        "keeping the layers of a stage in an nn.ModuleDict under their numbers"
                    )
                if id(parameter) not in identities:
                    identities.add(id(parameter))
                    yield name, parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of all stages, frozen ones too, each once.

        Returns:
            The parameters, in the order of `named_parameters`.

        Raises:
            ValueError: As `named_parameters`.
        """
        return (parameter for _, parameter in self.named_parameters())


class OptimizerProvider(Protocol):
    """A function, or an object that is called like one, which brings the optimizer."""

    def __call__(self, ctx: InitializeOptimizerContext, /) -> OptimizerProtocol:
        """Build the optimizer."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeLRSchedulerContext:
    """What a learning rate scheduler can be built from.

    Attributes:
        dist_context: The process and its device.
        optimizer: The optimizer whose learning rate shall be set.
        total_steps: How many optimizer steps the run has.
    """

    dist_context: DistributedContext
    optimizer: OptimizerProtocol
    total_steps: int

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, for the schedulers of `torch.optim.lr_scheduler`, which take no other.

        Raises:
            TypeError: If it is none of torch's kind.
        """
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"the optimizer is a {type(self.optimizer).__qualname__}, and torch's schedulers set the learning rate "
                "of a torch.optim.Optimizer alone: derive it from that class, or pass an lr_scheduler_provider that "
                "returns a scheduler of your own for it"
            )
        return self.optimizer


class LRSchedulerProvider(Protocol):
    """A function, or an object that is called like one, which brings the scheduler."""

    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        """Build the scheduler."""
