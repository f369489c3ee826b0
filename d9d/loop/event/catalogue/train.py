# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue e7ce001a6afc56e7, body 842b2b3aaa27462f
"""Events of the training loop."""

import dataclasses
from collections.abc import (
    Callable,
    Mapping,
)
from pathlib import (
    Path,
)
from typing import (
    Any,
    Final,
    Literal,
)

from torch import (
    Tensor,
)
from torch.nn import (
    Module,
)

from d9d.core.loop_control import (
    LoopControl,
)
from d9d.core.protocol import (
    LRSchedulerProtocol,
    OptimizerProtocol,
)
from d9d.core.stepper import (
    Stepper,
)
from d9d.loop.event import (
    Event,
)
from d9d.loop.event.catalogue.common import (
    EventCheckpointContext,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventModelStagesReadyContext,
    EventReportReadyContext,
    EventStepContext,
)

__all__ = [
    "EVENT_TRAIN_CHECKPOINT_LOADED",
    "EVENT_TRAIN_CHECKPOINT_SAVED",
    "EVENT_TRAIN_CHECKPOINT_STARTED",
    "EVENT_TRAIN_CLOSED",
    "EVENT_TRAIN_CONFIG_STARTED",
    "EVENT_TRAIN_DATA_LOADER_READY",
    "EVENT_TRAIN_EPOCH_FINISHED",
    "EVENT_TRAIN_EPOCH_STARTED",
    "EVENT_TRAIN_EVALUATION_FINISHED",
    "EVENT_TRAIN_EVALUATION_STARTED",
    "EVENT_TRAIN_FAILED",
    "EVENT_TRAIN_FINISHED",
    "EVENT_TRAIN_FORWARD_BACKWARD_POST",
    "EVENT_TRAIN_FORWARD_BACKWARD_PRE",
    "EVENT_TRAIN_GRADIENTS_READY",
    "EVENT_TRAIN_LOSS_READY",
    "EVENT_TRAIN_LR_SCHEDULER_READY",
    "EVENT_TRAIN_MODEL_STAGES_READY",
    "EVENT_TRAIN_OPTIMIZER_READY",
    "EVENT_TRAIN_OPTIMIZER_STEP_POST",
    "EVENT_TRAIN_OPTIMIZER_STEP_PRE",
    "EVENT_TRAIN_READY",
    "EVENT_TRAIN_REPORT_READY",
    "EVENT_TRAIN_SLEEP_POST",
    "EVENT_TRAIN_SLEEP_PRE",
    "EVENT_TRAIN_STEP_POST",
    "EVENT_TRAIN_STEP_PRE",
    "EVENT_TRAIN_WAKE_POST",
    "EVENT_TRAIN_WAKE_PRE",
    "EventCheckpointContext",
    "EventConfigurationStartedContext",
    "EventDataLoaderReadyContext",
    "EventEpochContext",
    "EventEvaluationFinishedContext",
    "EventEvaluationStartedContext",
    "EventGradientsReadyContext",
    "EventLRSchedulerReadyContext",
    "EventLossReadyContext",
    "EventModelStagesReadyContext",
    "EventOptimizerReadyContext",
    "EventReportReadyContext",
    "EventSleepContext",
    "EventStepContext",
    "EventTrainClosedContext",
    "EventTrainFailedContext",
    "EventTrainFinishedContext",
    "EventTrainReadyContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventOptimizerReadyContext:
    """Context of the event after the optimizer is built.

    Attributes:
        optimizer: The optimizer over the parameters of the model stages of this process.
    """

    optimizer: OptimizerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventLRSchedulerReadyContext:
    """Context of the event after the learning rate scheduler is built.

    Attributes:
        lr_scheduler: The scheduler that sets the learning rate of the optimizer.
    """

    lr_scheduler: LRSchedulerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainReadyContext:
    """Context of the event right before the first training step.

    Attributes:
        modules: The model stages of this process, with the weights that training begins with.
        stepper: The index of the current step and the total number of steps.
        resumed_from: The checkpoint that was loaded. None in a run that starts fresh.
    """

    modules: list[Module]
    stepper: Stepper
    resumed_from: Path | None


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainFinishedContext:
    """Context of the event after the last training step."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventEpochContext:
    """Context of the events at the first and the last sample of a pass over the dataset.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        epoch: The number of the pass over the dataset, from 0.
    """

    stepper: Stepper
    control: LoopControl
    epoch: int


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventLossReadyContext:
    """Context of the event at which the loss of one micro-batch is computed.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        micro_batch_index: The number of the micro-batch among those of this process in this step, from 0.
        batch: The micro-batch from the data loader, on the device.
        outputs: What the model returned.
        loss: The loss as the task returned it, a scalar, detached.
        loss_weight: Its weight as the task returned it. A tensor is on the device.
    """

    stepper: Stepper
    control: LoopControl
    micro_batch_index: int
    batch: Any
    outputs: Any
    loss: Tensor
    loss_weight: Tensor | float


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventGradientsReadyContext:
    """Context of the event at which the gradients of a step are complete, before they are clipped.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        modules: The model stages of this process, whose parameters hold the gradients.
        norm: The L2 norm of all gradients of the job before clipping, a scalar. Clipping uses it even if a handler
            changes the gradients.
        skip_update: Skips the optimizer's step where its argument is true, without waiting for the device. The argument
            is a boolean scalar on the device, the same on all ranks. Such a step does not count as one with non-finite
            gradients.
    """

    stepper: Stepper
    control: LoopControl
    modules: list[Module]
    norm: Tensor
    skip_update: Callable[[Tensor], None]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventEvaluationStartedContext:
    """Context of the event before an evaluation.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        name: The name of the evaluation, as in `evaluations={...}` of the configurator.
    """

    stepper: Stepper
    control: LoopControl
    name: str


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventEvaluationFinishedContext:
    """Context of the event after an evaluation.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        name: The name of the evaluation, as in `evaluations={...}` of the configurator.
        metrics: The results by name, such as `loss`, on the host and the same on every process. Reports put the name of
            the evaluation in front, as in `validation/loss`.
    """

    stepper: Stepper
    control: LoopControl
    name: str
    metrics: Mapping[str, float]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventSleepContext:
    """Context of the events around `Trainer.sleep` and `Trainer.wake`.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        tags: What leaves the device or returns: some of `parameters`, `gradients`, `optimizer` and `buffers`.
    """

    stepper: Stepper
    tags: frozenset[str]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainFailedContext:
    """Context of the event at which an exception has left the configuration or the loop.

    Attributes:
        error: The exception.
        last_event: The id of the last event that the loop reached before it, heard or not. None if there was none.
    """

    error: BaseException
    last_event: str | None


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainClosedContext:
    """Context of the last event of a run.

    Attributes:
        outcome: `finished` if all steps are complete or a handler stopped the run, `stopped` if a signal did or the
            caller left the steps early, `failed` after an exception.
        reason: Why the run ended, in words: the reason that a handler gave, the name of the signal, or the first line
            of the error.
    """

    outcome: Literal["finished", "stopped", "failed"]
    reason: str


EVENT_TRAIN_CONFIG_STARTED: Final[Event[EventConfigurationStartedContext]] = Event(
    id="train.configuration.start",
    context_name="d9d.loop.event.catalogue.common.EventConfigurationStartedContext",
)
"""Triggered at the start of configuration. Handlers get access to the distributed context."""

EVENT_TRAIN_DATA_LOADER_READY: Final[Event[EventDataLoaderReadyContext]] = Event(
    id="train.configuration.data_loader",
    context_name="d9d.loop.event.catalogue.common.EventDataLoaderReadyContext",
)
"""Triggered after the data loader is built."""

EVENT_TRAIN_MODEL_STAGES_READY: Final[Event[EventModelStagesReadyContext]] = Event(
    id="train.configuration.model_stages",
    context_name="d9d.loop.event.catalogue.common.EventModelStagesReadyContext",
)
"""Triggered after the model stages are built and parallelised. A checkpoint is not loaded yet."""

EVENT_TRAIN_OPTIMIZER_READY: Final[Event[EventOptimizerReadyContext]] = Event(
    id="train.configuration.optimizer",
    context_name="d9d.loop.event.catalogue.train.EventOptimizerReadyContext",
)
"""Triggered after the optimizer is built."""

EVENT_TRAIN_LR_SCHEDULER_READY: Final[Event[EventLRSchedulerReadyContext]] = Event(
    id="train.configuration.lr_scheduler",
    context_name="d9d.loop.event.catalogue.train.EventLRSchedulerReadyContext",
)
"""Triggered after the learning rate scheduler is built."""

EVENT_TRAIN_CHECKPOINT_LOADED: Final[Event[EventCheckpointContext]] = Event(
    id="train.checkpoint.loaded",
    context_name="d9d.loop.event.catalogue.common.EventCheckpointContext",
)
"""Triggered after the state of the job is loaded from a checkpoint. A run that starts fresh does not trigger it."""

EVENT_TRAIN_READY: Final[Event[EventTrainReadyContext]] = Event(
    id="train.ready",
    context_name="d9d.loop.event.catalogue.train.EventTrainReadyContext",
)
"""Triggered right before the first step, after configuration is complete and the checkpoint is loaded.

Its handlers see the weights that training begins with.
"""

EVENT_TRAIN_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="train.step.pre",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered at the very beginning of a step."""

EVENT_TRAIN_EPOCH_STARTED: Final[Event[EventEpochContext]] = Event(
    id="train.epoch.start",
    context_name="d9d.loop.event.catalogue.train.EventEpochContext",
    in_step=True,
)
"""Triggered in the step that takes the first sample of a pass over the dataset.

A step of many samples may hold several passes. The workers of the data loader may have read ahead, so a handler cannot
choose the samples of this pass. Iterable data has no passes.
"""

EVENT_TRAIN_FORWARD_BACKWARD_PRE: Final[Event[EventStepContext]] = Event(
    id="train.forward_backward.pre",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered right before the forward and backward passes of the step."""

EVENT_TRAIN_LOSS_READY: Final[Event[EventLossReadyContext]] = Event(
    id="train.loss.ready",
    context_name="d9d.loop.event.catalogue.train.EventLossReadyContext",
    in_step=True,
)
"""Triggered once for each micro-batch, after its loss is computed and before its backward pass, on the processes that
compute losses. In a pipeline these hold the last stage. Evaluations do not trigger it.
"""

EVENT_TRAIN_FORWARD_BACKWARD_POST: Final[Event[EventStepContext]] = Event(
    id="train.forward_backward.post",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered right after all forward and backward passes of the step.

The gradients are the sums over the losses of this process, each times its weight: they are not divided by the weight of
the step yet, nor summed over all processes.
"""

EVENT_TRAIN_GRADIENTS_READY: Final[Event[EventGradientsReadyContext]] = Event(
    id="train.gradients.ready",
    context_name="d9d.loop.event.catalogue.train.EventGradientsReadyContext",
    in_step=True,
)
"""Triggered when the gradients of the step are accumulated, summed over all processes and scaled, before they are
clipped.
"""

EVENT_TRAIN_OPTIMIZER_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="train.optimizer_step.pre",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered right before the optimizer updates the parameters of the model, after the gradients are scaled and clipped.
"""

EVENT_TRAIN_OPTIMIZER_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="train.optimizer_step.post",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered right after the optimizer has updated the parameters of the model, before the gradients are zeroed."""

EVENT_TRAIN_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="train.step.post",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered at the very end of a step, before a checkpoint is saved."""

EVENT_TRAIN_EPOCH_FINISHED: Final[Event[EventEpochContext]] = Event(
    id="train.epoch.finished",
    context_name="d9d.loop.event.catalogue.train.EventEpochContext",
)
"""Triggered after the step that takes the last sample of a pass over the dataset.

A run that resumed may finish a pass that it did not start.
"""

EVENT_TRAIN_REPORT_READY: Final[Event[EventReportReadyContext]] = Event(
    id="train.report.ready",
    context_name="d9d.loop.event.catalogue.common.EventReportReadyContext",
)
"""Triggered when the numbers of a report have reached the host, on every process after the same step, and after each
evaluation with its results.
"""

EVENT_TRAIN_EVALUATION_STARTED: Final[Event[EventEvaluationStartedContext]] = Event(
    id="train.evaluation.start",
    context_name="d9d.loop.event.catalogue.train.EventEvaluationStartedContext",
)
"""Triggered before an evaluation, on every process. `trainer.evaluate()` before or after the run does not trigger it.
"""

EVENT_TRAIN_EVALUATION_FINISHED: Final[Event[EventEvaluationFinishedContext]] = Event(
    id="train.evaluation.finished",
    context_name="d9d.loop.event.catalogue.train.EventEvaluationFinishedContext",
)
"""Triggered after an evaluation, on every process, when its results have reached the host."""

EVENT_TRAIN_CHECKPOINT_STARTED: Final[Event[EventCheckpointContext]] = Event(
    id="train.checkpoint.start",
    context_name="d9d.loop.event.catalogue.common.EventCheckpointContext",
)
"""Triggered before the state of the job is copied or written for a checkpoint."""

EVENT_TRAIN_CHECKPOINT_SAVED: Final[Event[EventCheckpointContext]] = Event(
    id="train.checkpoint.saved",
    context_name="d9d.loop.event.catalogue.common.EventCheckpointContext",
)
"""Triggered when a checkpoint is durable on disk for the whole job, on every process after the same step.

With asynchronous checkpoints this is a later step than the one of `EVENT_TRAIN_CHECKPOINT_STARTED`.
"""

EVENT_TRAIN_SLEEP_PRE: Final[Event[EventSleepContext]] = Event(
    id="train.sleep.pre",
    context_name="d9d.loop.event.catalogue.train.EventSleepContext",
)
"""Triggered before `Trainer.sleep` moves state from the device to the host.

A call before or after the run does not trigger it.
"""

EVENT_TRAIN_SLEEP_POST: Final[Event[EventSleepContext]] = Event(
    id="train.sleep.post",
    context_name="d9d.loop.event.catalogue.train.EventSleepContext",
)
"""Triggered after `Trainer.sleep` has moved state from the device to the host."""

EVENT_TRAIN_WAKE_PRE: Final[Event[EventSleepContext]] = Event(
    id="train.wake.pre",
    context_name="d9d.loop.event.catalogue.train.EventSleepContext",
)
"""Triggered before `Trainer.wake` moves state from the host to the device.

A call before or after the run does not trigger it.
"""

EVENT_TRAIN_WAKE_POST: Final[Event[EventSleepContext]] = Event(
    id="train.wake.post",
    context_name="d9d.loop.event.catalogue.train.EventSleepContext",
)
"""Triggered after `Trainer.wake` has moved state from the host to the device."""

EVENT_TRAIN_FINISHED: Final[Event[EventTrainFinishedContext]] = Event(
    id="train.finished",
    context_name="d9d.loop.event.catalogue.train.EventTrainFinishedContext",
)
"""Triggered after the last step and the last checkpoint, when training is complete or a handler has stopped it."""

EVENT_TRAIN_FAILED: Final[Event[EventTrainFailedContext]] = Event(
    id="train.failed",
    context_name="d9d.loop.event.catalogue.train.EventTrainFailedContext",
)
"""Triggered when an exception has left the configuration or the loop on this process.

A process that is killed, or that the launcher ends while it waits for others, does not trigger it.
"""

EVENT_TRAIN_CLOSED: Final[Event[EventTrainClosedContext]] = Event(
    id="train.closed",
    context_name="d9d.loop.event.catalogue.train.EventTrainClosedContext",
)
"""Triggered once, at the very end of a run, however it ended."""
