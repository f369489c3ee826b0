"""Tasks: the part of training and inference that the user writes."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch

from d9d.core.dist_context import DistributedContext
from d9d.core.loop_control import LoopControl
from d9d.core.metric import Metric
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper
from d9d.loop.control.provider import describe_kind, wrong_result
from d9d.loop.event import EventBus


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class RegisterTaskEventsContext:
    """Context of `BaseTask.register_events`.

    Attributes:
        event_bus: The bus of the loop that is being configured.
        dist_context: The processes of the job and the device of this one.
        control: Asks the loop to stop, save or evaluate.
    """

    event_bus: EventBus
    dist_context: DistributedContext
    control: LoopControl


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class CreateMetricsContext:
    """Context of `BaseTask.create_metrics`.

    Attributes:
        dist_context: This process, its mesh, and the device that metrics are kept on.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class BuildForwardInputsContext:
    """Context of `BaseTask.build_forward_inputs`.

    Attributes:
        batch: One micro-batch from the data loader, its tensors moved to the device of the loop.
        stepper: The current step and the number of steps.
    """

    batch: Any
    stepper: Stepper


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class BuildForwardInputsResult:
    """The inputs of the model.

    Attributes:
        inputs: Keyword arguments of the model's `forward`; in a pipeline, of the first stage only.
        shared_inputs: Further keyword arguments of the model's `forward`; in a pipeline, of every stage. Masks and
            positions belong here.

    Raises:
        TypeError: If one of them is no mapping.
    """

    inputs: Mapping[str, Any]
    shared_inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the inputs have names."""
        if type(self.inputs) is dict and type(self.shared_inputs) is dict:  # the quick way, in every micro-batch
            return
        for name, inputs in (("inputs", self.inputs), ("shared_inputs", self.shared_inputs)):
            if not isinstance(inputs, Mapping):
                raise TypeError(
                    f"{name} of BuildForwardInputsResult is {describe_kind(inputs)}: pass a mapping from the names of "
                    f"the arguments of the model's forward, {name}={{'name': ...}}"
                )


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ComputeLossContext:
    """Context of `TrainTask.compute_loss`.

    Attributes:
        outputs: What the model returned.
        batch: The micro-batch that the inputs were built from.
        stepper: The current step and the number of steps.
        evaluation: The name of the evaluation that the loss is for; `None` in training.
    """

    outputs: Any
    batch: Any
    stepper: Stepper
    evaluation: str | None = None


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ComputeLossResult:
    """The loss of one micro-batch, as a mean or as a sum.

    Return a mean as `loss`, with its weight. Or return a sum over tokens or samples as `loss_sum`, with their number as
    the weight; then no division can fail in a micro-batch that has none. The loss of the step is the same: the weighted
    mean over all micro-batches of all processes. A micro-batch of weight zero contributes nothing to it.

    Attributes:
        loss: The mean loss of the micro-batch, a scalar tensor. If `loss_sum` was given, it is set to their quotient,
            detached, or to 0 for weight zero.
        loss_weight: The weight of this micro-batch within its step, for example its number of tokens, if `loss` is a
            mean over tokens: a number, or a scalar tensor on the device of the loss.
        loss_sum: The mean loss times its weight, a scalar tensor, in place of `loss`.

    Raises:
        TypeError: If both or neither of `loss` and `loss_sum` are given, or `loss_sum` without `loss_weight`.
        ValueError: If `loss_weight` is a tensor of several numbers.
    """

    loss: torch.Tensor = dataclasses.field(default=cast("torch.Tensor", None))
    loss_weight: torch.Tensor | float = dataclasses.field(default=cast("float", None))
    loss_sum: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Check what was given, and set what follows from it."""
        loss, weight = cast("torch.Tensor | None", self.loss), cast("torch.Tensor | float | None", self.loss_weight)
        if (loss is None) == (self.loss_sum is None):
            given = "neither" if loss is None else "both"
            raise TypeError(f"ComputeLossResult needs either loss or loss_sum, and {given} was given")
        if isinstance(weight, torch.Tensor) and weight.numel() != 1:
            raise ValueError(
                f"loss_weight of ComputeLossResult has the shape {list(weight.shape)}: pass one number, such as its sum"
            )
        if self.loss_sum is None:
            object.__setattr__(self, "loss_weight", 1.0 if weight is None else weight)
            return
        if weight is None:
            raise TypeError(
                "ComputeLossResult has loss_sum without loss_weight: pass the number of tokens or samples that were "
                "summed, or a mean as loss"
            )
        total = self.loss_sum.detach()
        if isinstance(weight, torch.Tensor):
            mean = torch.where(weight == 0, 0.0, total / weight)
        else:
            mean = total / weight if weight else torch.zeros_like(total)
        object.__setattr__(self, "loss", mean)


def as_loss_result(result: object, source: Callable[..., Any]) -> ComputeLossResult:
    """Check what `TrainTask.compute_loss` returned.

    Args:
        result: What was returned: a result, or an object whose `loss` is one, such as the outputs of a model of
            transformers that was given labels.
        source: The method that returned it.

    Returns:
        The result.

    Raises:
        TypeError: If it is neither, or its loss is not a tensor.
    """
    if isinstance(result, torch.Tensor) or not hasattr(result, "loss"):
        raise wrong_result(result, ComputeLossResult, source)
    loss: object = result.loss
    if isinstance(loss, torch.Tensor):
        return result if isinstance(result, ComputeLossResult) else ComputeLossResult(loss=loss)
    returned = f"{source.__qualname__} returned {describe_kind(result)} whose loss is"
    if loss is None:
        raise TypeError(
            f"{returned} None: return a scalar tensor. A model of transformers computes its loss only if "
            "build_forward_inputs gives it labels"
        )
    if isinstance(loss, int | float):
        raise TypeError(
            f"{returned} {loss}, a number of Python without gradients: return the tensor itself, without .item() or "
            "float()"
        )
    raise TypeError(f"{returned} {describe_kind(loss)}: return a scalar tensor")


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ProcessOutputsContext:
    """Context of `InferenceTask.process_outputs`.

    Attributes:
        outputs: What the model returned.
        batch: The micro-batch that the inputs were built from.
        stepper: The current step and the number of steps.
        samples: The indices of the samples in the dataset, in the order of the batch. Each process gets the outputs of
            its own share of a step; use these indices to put the outputs of all processes into the dataset's order.
    """

    outputs: Any
    batch: Any
    stepper: Stepper
    samples: Sequence[int]


class BaseTask:
    """The methods that training and inference tasks have in common."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        """Subscribe to the loop's events. Called once, before the first event.

        Args:
            ctx: Holds the bus to subscribe on. Most tasks only need `subscribe_annotated(ctx.event_bus, self)`.
        """

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:  # noqa: ARG002 -- for overrides
        """Create the metrics that the loop reports in addition to its own. Called once on all processes.

        Keep the metrics on the task and update them where their values are known, for example in `compute_loss`; in a
        pipeline that is the process with the last stage. The loop reduces them over all processes and resets them after
        each report.

        Args:
            ctx: Holds the device to create them on.

        Returns:
            The metrics by the names to report them under, the same names on all processes. None by default.
        """
        return {}

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        """Build the keyword arguments of the model from a micro-batch. By default they are the micro-batch itself.

        Args:
            ctx: The micro-batch.

        Returns:
            The keyword arguments of the model.

        Raises:
            TypeError: If the micro-batch is not a mapping and the task does not override this method.
        """
        if not isinstance(ctx.batch, Mapping):
            raise TypeError(
                f"the data loader yields batches of type {type(ctx.batch).__qualname__}, and only a mapping can become "
                f"the keyword arguments of the model: override {type(self).__qualname__}.build_forward_inputs"
            )
        return BuildForwardInputsResult(inputs=ctx.batch)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the task: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the state that `state_dict` returned.

        Args:
            state_dict: The state from the checkpoint.

        Raises:
            ConfigurationError: If there is state, and the task does not override this.
        """
        if state_dict:
            raise ConfigurationError(
                f"the checkpoint has state of the task, {', '.join(map(repr, state_dict))}, and "
                f"{type(self).__qualname__} has no load_state_dict, so it would be lost: define the method, even if it "
                "only drops what is no longer needed"
            )


class TrainTask(BaseTask):
    """Computes the loss of a training run."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        """Compute the loss of one micro-batch.

        By default it is the output of the model, or its `loss`, as models of transformers have one that were given
        labels; with weight 1.

        Args:
            ctx: The outputs of the model, and the micro-batch.

        Returns:
            The loss and its weight.

        Raises:
            TypeError: If the model does not return a scalar tensor and the task does not override this method.
        """
        outputs = ctx.outputs
        if not isinstance(outputs, torch.Tensor) and hasattr(outputs, "loss"):
            return as_loss_result(outputs, type(self).compute_loss)
        if not isinstance(outputs, torch.Tensor) or outputs.ndim:
            shape = f" of shape {list(outputs.shape)}" if isinstance(outputs, torch.Tensor) else ""
            raise TypeError(
                f"the model returns {describe_kind(outputs)}{shape}, and only a scalar tensor can be the loss: "
                f"override {type(self).__qualname__}.compute_loss"
            )
        return ComputeLossResult(loss=outputs)


class InferenceTask(BaseTask, abc.ABC):
    """Processes the outputs of an inference run."""

    @abc.abstractmethod
    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        """Process the outputs of one micro-batch, for example write them to a file.

        Args:
            ctx: The outputs of the model, and the micro-batch.
        """
