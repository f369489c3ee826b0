# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 4a1b64f1e0f44a34, body 1d24eacb1dfad522
"""Events of the training loop."""

import dataclasses
from typing import (
    Final,
)

from d9d.core.protocol import (
    LRSchedulerProtocol,
    OptimizerProtocol,
)
from d9d.loop.event import (
    Event,
)
from d9d.loop.event.catalogue.common import (
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventModelStagesReadyContext,
    EventStepContext,
)

__all__ = [
    "EVENT_TRAIN_CONFIG_STARTED",
    "EVENT_TRAIN_DATA_LOADER_READY",
    "EVENT_TRAIN_FINISHED",
    "EVENT_TRAIN_FORWARD_BACKWARD_POST",
    "EVENT_TRAIN_FORWARD_BACKWARD_PRE",
    "EVENT_TRAIN_LR_SCHEDULER_READY",
    "EVENT_TRAIN_MODEL_STAGES_READY",
    "EVENT_TRAIN_OPTIMIZER_READY",
    "EVENT_TRAIN_OPTIMIZER_STEP_POST",
    "EVENT_TRAIN_OPTIMIZER_STEP_PRE",
    "EVENT_TRAIN_READY",
    "EVENT_TRAIN_STEP_POST",
    "EVENT_TRAIN_STEP_PRE",
    "EventConfigurationStartedContext",
    "EventDataLoaderReadyContext",
    "EventLRSchedulerReadyContext",
    "EventModelStagesReadyContext",
    "EventOptimizerReadyContext",
    "EventStepContext",
    "EventTrainFinishedContext",
    "EventTrainReadyContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventOptimizerReadyContext:
    """Context of the moment at which the optimizer exists.

    Attributes:
        optimizer: The optimizer over the parameters of the model.
    """

    optimizer: OptimizerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventLRSchedulerReadyContext:
    """Context of the moment at which the learning rate scheduler exists.

    Attributes:
        lr_scheduler: The scheduler that sets the learning rate of the optimizer.
    """

    lr_scheduler: LRSchedulerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainReadyContext:
    """Context of the moment at which training can begin and the checkpoint, if there is one, is loaded."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainFinishedContext:
    """Context of the moment at which the whole training loop has ended successfully."""


EVENT_TRAIN_CONFIG_STARTED: Final[Event[EventConfigurationStartedContext]] = Event(
    id="train.configuration.start",
)
"""Triggered when the configuration of training begins. Gives access to the distributed context."""

EVENT_TRAIN_DATA_LOADER_READY: Final[Event[EventDataLoaderReadyContext]] = Event(
    id="train.configuration.data_loader",
)
"""Triggered when the data loader of training is fully initialised."""

EVENT_TRAIN_MODEL_STAGES_READY: Final[Event[EventModelStagesReadyContext]] = Event(
    id="train.configuration.model_stages",
)
"""Triggered when the model stages are initialised and parallelised."""

EVENT_TRAIN_OPTIMIZER_READY: Final[Event[EventOptimizerReadyContext]] = Event(
    id="train.configuration.optimizer",
)
"""Triggered when the optimizer is built and ready for use."""

EVENT_TRAIN_LR_SCHEDULER_READY: Final[Event[EventLRSchedulerReadyContext]] = Event(
    id="train.configuration.lr_scheduler",
)
"""Triggered when the learning rate scheduler is configured."""

EVENT_TRAIN_READY: Final[Event[EventTrainReadyContext]] = Event(
    id="train.ready",
)
"""Triggered right before the main loop starts, after configuration is complete and checkpoints are loaded."""

EVENT_TRAIN_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="train.step.pre",
)
"""Triggered at the absolute beginning of a training step."""

EVENT_TRAIN_FORWARD_BACKWARD_PRE: Final[Event[EventStepContext]] = Event(
    id="train.forward_backward.pre",
)
"""Triggered immediately before the forward and backward passes of the step begin."""

EVENT_TRAIN_FORWARD_BACKWARD_POST: Final[Event[EventStepContext]] = Event(
    id="train.forward_backward.post",
)
"""Triggered immediately after all forward and backward passes of the step have finished."""

EVENT_TRAIN_OPTIMIZER_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="train.optimizer_step.pre",
)
"""Triggered immediately before the optimizer updates the parameters of the model, after the gradients are scaled and
clipped.
"""

EVENT_TRAIN_OPTIMIZER_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="train.optimizer_step.post",
)
"""Triggered immediately after the optimizer has updated the parameters of the model, before the gradients are zeroed.
"""

EVENT_TRAIN_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="train.step.post",
)
"""Triggered at the very end of a training step, after everything in it but checkpointing."""

EVENT_TRAIN_FINISHED: Final[Event[EventTrainFinishedContext]] = Event(
    id="train.finished",
)
"""Triggered when the whole training loop has finished successfully."""
