"""How a loop comes by its model."""

import abc
import dataclasses

from torch import nn

from d9d.core.dist_context import DistributedContext
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
    """What a model can be built from.

    Attributes:
        dist_context: The process and its device.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeModelStageResult:
    """A model with its initial weights.

    Attributes:
        model: The model, on any device; the loop moves it to its own.
    """

    model: nn.Module


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ParallelizeModelStageContext:
    """What a model is prepared for running with.

    Attributes:
        dist_context: The process and its device.
        model: The model, on that device.
    """

    dist_context: DistributedContext
    model: nn.Module


class ModelProvider(abc.ABC):
    """Brings the model of a loop, and may subscribe to the loop's events."""

    @abc.abstractmethod
    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        """Build the model and its initial weights.

        The random number generators are seeded from the configuration by then, so the same seed gives the same weights
        on every device if the model is built on the CPU, as it is by default.

        Args:
            ctx: Where the model will run.

        Returns:
            The model.
        """

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        """Prepare the model, on its device and in place, for running; for example with `ctx.model.compile()`.

        Args:
            ctx: The model and where it runs.
        """

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        """Subscribe to the loop's events; called once, before the first of them.

        Args:
            ctx: Holds the bus to subscribe on.
        """
