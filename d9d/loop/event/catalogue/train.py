# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 1ef3536505ffc7d0, body 8a0d79801c34944c
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
    """Context of the event right before the first training step."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrainFinishedContext:
    """Context of the event after the last training step."""


EVENT_TRAIN_CONFIG_STARTED: Final[Event[EventConfigurationStartedContext]] = Event(
    id="train.configuration.start",
)
"""Triggered at the start of configuration. Handlers get access to the distributed context."""

EVENT_TRAIN_DATA_LOADER_READY: Final[Event[EventDataLoaderReadyContext]] = Event(
    id="train.configuration.data_loader",
)
"""Triggered after the data loader is built."""

EVENT_TRAIN_MODEL_STAGES_READY: Final[Event[EventModelStagesReadyContext]] = Event(
    id="train.configuration.model_stages",
)
"""Triggered after the model stages are built and parallelised. A checkpoint is not loaded yet."""

EVENT_TRAIN_OPTIMIZER_READY: Final[Event[EventOptimizerReadyContext]] = Event(
    id="train.configuration.optimizer",
)
"""Triggered after the optimizer is built."""

EVENT_TRAIN_LR_SCHEDULER_READY: Final[Event[EventLRSchedulerReadyContext]] = Event(
    id="train.configuration.lr_scheduler",
)
"""Triggered after the learning rate scheduler is built."""

EVENT_TRAIN_READY: Final[Event[EventTrainReadyContext]] = Event(
    id="train.ready",
)
"""Triggered right before the first step, after configuration is complete and the checkpoint is loaded."""

EVENT_TRAIN_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="train.step.pre",
)
"""Triggered at the very beginning of a step."""

EVENT_TRAIN_FORWARD_BACKWARD_PRE: Final[Event[EventStepContext]] = Event(
    id="train.forward_backward.pre",
)
"""Triggered right before the forward and backward passes of the step."""

EVENT_TRAIN_FORWARD_BACKWARD_POST: Final[Event[EventStepContext]] = Event(
    id="train.forward_backward.post",
)
"""Triggered right after all forward and backward passes of the step."""

EVENT_TRAIN_OPTIMIZER_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="train.optimizer_step.pre",
)
"""Triggered right before the optimizer updates the parameters of the model, after the gradients are scaled and clipped.
"""

EVENT_TRAIN_OPTIMIZER_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="train.optimizer_step.post",
)
"""Triggered right after the optimizer has updated the parameters of the model, before the gradients are zeroed."""

EVENT_TRAIN_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="train.step.post",
)
"""Triggered at the very end of a step, before a checkpoint is saved."""

EVENT_TRAIN_FINISHED: Final[Event[EventTrainFinishedContext]] = Event(
    id="train.finished",
)
"""Triggered after the last step, when training is complete."""
