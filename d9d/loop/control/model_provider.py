"""How a loop comes by its model."""

import abc
import dataclasses
from typing import Any

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.pipeline import StagePosition
from d9d.loop.event import EventBus


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
