"""What a loop computes: the part of training and of inference that only the user knows."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric
from d9d.core.stepper import Stepper
from d9d.loop.event import EventBus


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class RegisterTaskEventsContext:
    """What a task subscribes its handlers with.

    Attributes:
        event_bus: The bus of the loop that is being configured.
    """

    event_bus: EventBus


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class CreateMetricsContext:
    """What a task creates its metrics with.

    Attributes:
        dist_context: The processes of the loop, and the device that metrics are kept on.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class BuildForwardInputsContext:
    """What the inputs of the model are built from.

    Attributes:
        batch: One micro-batch as the data loader made it, its tensors on the device of the loop.
        stepper: Knows which step this is.
    """

    batch: Any
    stepper: Stepper


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class BuildForwardInputsResult:
    """The inputs of the model.

    Attributes:
        inputs: The keyword arguments of the model's `forward`; in a pipeline, of its first stage.
        shared_inputs: Further keyword arguments of the model's `forward`; in a pipeline, of every stage, such as masks
            and positions.
    """

    inputs: Mapping[str, Any]
    shared_inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ComputeLossContext:
    """What the loss of one micro-batch is computed from.

    Attributes:
        outputs: What the model returned.
        batch: The micro-batch that its inputs were built from.
        stepper: Knows which step this is.
    """

    outputs: Any
    batch: Any
    stepper: Stepper


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ComputeLossResult:
    """The loss of one micro-batch.

    Attributes:
        loss: The mean loss over whatever the weight counts; a scalar tensor.
        loss_weight: How much this micro-batch counts within its step, such as its number of tokens: a number, or a
            scalar tensor on the loss's device. The step's loss is the weighted mean over its micro-batches.
    """

    loss: torch.Tensor
    loss_weight: torch.Tensor | float = 1.0


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ProcessOutputsContext:
    """What inference hands over for one micro-batch.

    Attributes:
        outputs: What the model returned.
        batch: The micro-batch that its inputs were built from.
        stepper: Knows which step this is.
        samples: The indices of its samples in the dataset, in the order of the batch. Each process hands over outputs
            of its own share of a step, and by these indices all outputs can be put into the order of the dataset.
    """

    outputs: Any
    batch: Any
    stepper: Stepper
    samples: Sequence[int]


class BaseTask:
    """What the tasks of training and of inference share."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        """Subscribe to the loop's events; called once, before the first of them.

        Args:
            ctx: Holds the bus to subscribe on; `subscribe_annotated(ctx.event_bus, self)` is all that most tasks need.
        """

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:  # noqa: ARG002 -- for those who override
        """Create what the loop reports beside the numbers of its own; called once on all processes, before the model.

        The task keeps the metrics and updates them itself, wherever it knows what they count, on each process that has
        something to count: with a pipeline, that of its last stage. The loop reduces them over all processes, and
        resets them with each report.

        Args:
            ctx: Holds the device to create them on.

        Returns:
            The metrics, by the names to report them under, the same on all processes; none by default.
        """
        return {}

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        """Choose what of a micro-batch the model receives; by default all of it, where it is a mapping.

        Args:
            ctx: The micro-batch.

        Returns:
            The keyword arguments of the model.

        Raises:
            TypeError: If the micro-batch is no mapping and the task does not override this method.
        """
        if not isinstance(ctx.batch, Mapping):
            raise TypeError(
                f"the data loader yields batches of type {type(ctx.batch).__qualname__}, and only mappings can be "
                f"passed to the model as they are: override {type(self).__qualname__}.build_forward_inputs"
            )
        return BuildForwardInputsResult(inputs=ctx.batch)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the task: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from what `state_dict` returned when the checkpoint was taken.

        Args:
            state_dict: The state.
        """


class TrainTask(BaseTask):
    """What training computes for each micro-batch."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        """Compute the loss of one micro-batch; by default the model computes it and returns nothing else.

        Args:
            ctx: The outputs of the model, and the micro-batch.

        Returns:
            The loss and its weight.

        Raises:
            TypeError: If the model returns no scalar tensor and the task does not override this method.
        """
        outputs = ctx.outputs
        if not isinstance(outputs, torch.Tensor) or outputs.ndim:
            shape = f" of shape {list(outputs.shape)}" if isinstance(outputs, torch.Tensor) else ""
            raise TypeError(
                f"the model returns a {type(outputs).__qualname__}{shape}, and only a scalar tensor can be the loss as "
                f"it is: override {type(self).__qualname__}.compute_loss"
            )
        return ComputeLossResult(loss=outputs)


class InferenceTask(BaseTask, abc.ABC):
    """What inference does with the outputs of the model."""

    @abc.abstractmethod
    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        """Use the outputs for one micro-batch: write them, count them, keep them.

        Args:
            ctx: The outputs of the model, and the micro-batch.
        """
