# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue b1c419881f752cb8, body c54950e041d08543
"""Events of the inference loop."""

import dataclasses
from collections.abc import (
    Sequence,
)
from typing import (
    Any,
    Final,
    Literal,
)

from d9d.core.loop_control import (
    LoopControl,
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
    "EVENT_INFERENCE_CHECKPOINT_LOADED",
    "EVENT_INFERENCE_CHECKPOINT_SAVED",
    "EVENT_INFERENCE_CHECKPOINT_STARTED",
    "EVENT_INFERENCE_CLOSED",
    "EVENT_INFERENCE_CONFIG_STARTED",
    "EVENT_INFERENCE_DATA_LOADER_READY",
    "EVENT_INFERENCE_FAILED",
    "EVENT_INFERENCE_FINISHED",
    "EVENT_INFERENCE_FORWARD_POST",
    "EVENT_INFERENCE_FORWARD_PRE",
    "EVENT_INFERENCE_MODEL_STAGES_READY",
    "EVENT_INFERENCE_OUTPUTS_READY",
    "EVENT_INFERENCE_READY",
    "EVENT_INFERENCE_REPORT_READY",
    "EVENT_INFERENCE_STEP_POST",
    "EVENT_INFERENCE_STEP_PRE",
    "EventCheckpointContext",
    "EventConfigurationStartedContext",
    "EventDataLoaderReadyContext",
    "EventInferenceClosedContext",
    "EventInferenceFailedContext",
    "EventInferenceFinishedContext",
    "EventInferenceOutputsReadyContext",
    "EventInferenceReadyContext",
    "EventModelStagesReadyContext",
    "EventReportReadyContext",
    "EventStepContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceReadyContext:
    """Context of the event right before the first inference step."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceFinishedContext:
    """Context of the event after the last inference step."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceOutputsReadyContext:
    """Context of the event at which the outputs of one micro-batch are processed.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        batch: The micro-batch from the data loader, on the device.
        outputs: What the model returned.
        samples: The indices of the samples in the dataset, in the order of the batch.
    """

    stepper: Stepper
    control: LoopControl
    batch: Any
    outputs: Any
    samples: Sequence[int]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceFailedContext:
    """Context of the event at which an exception has left the configuration or the loop.

    Attributes:
        error: The exception.
        last_event: The id of the last event that the loop reached before it, heard or not. None if there was none.
    """

    error: BaseException
    last_event: str | None


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceClosedContext:
    """Context of the last event of a run.

    Attributes:
        outcome: `finished` if all steps are complete or a handler stopped the run, `stopped` if a signal did, `failed`
            after an exception.
        reason: Why the run ended, in words: the reason that a handler gave, the name of the signal, or the first line
            of the error.
    """

    outcome: Literal["finished", "stopped", "failed"]
    reason: str


EVENT_INFERENCE_CONFIG_STARTED: Final[Event[EventConfigurationStartedContext]] = Event(
    id="inference.configuration.start",
    context_name="d9d.loop.event.catalogue.common.EventConfigurationStartedContext",
)
"""Triggered at the start of configuration. Handlers get access to the distributed context."""

EVENT_INFERENCE_DATA_LOADER_READY: Final[Event[EventDataLoaderReadyContext]] = Event(
    id="inference.configuration.data_loader",
    context_name="d9d.loop.event.catalogue.common.EventDataLoaderReadyContext",
)
"""Triggered after the data loader is built."""

EVENT_INFERENCE_MODEL_STAGES_READY: Final[Event[EventModelStagesReadyContext]] = Event(
    id="inference.configuration.model_stages",
    context_name="d9d.loop.event.catalogue.common.EventModelStagesReadyContext",
)
"""Triggered after the model stages are built and parallelised. The weights are not loaded yet."""

EVENT_INFERENCE_CHECKPOINT_LOADED: Final[Event[EventCheckpointContext]] = Event(
    id="inference.checkpoint.loaded",
    context_name="d9d.loop.event.catalogue.common.EventCheckpointContext",
)
"""Triggered after the state of the job is loaded from a checkpoint. A run that starts fresh does not trigger it."""

EVENT_INFERENCE_READY: Final[Event[EventInferenceReadyContext]] = Event(
    id="inference.ready",
    context_name="d9d.loop.event.catalogue.inference.EventInferenceReadyContext",
)
"""Triggered right before the first step, after configuration is complete and weights and checkpoint are loaded."""

EVENT_INFERENCE_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="inference.step.pre",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered at the very beginning of a step."""

EVENT_INFERENCE_FORWARD_PRE: Final[Event[EventStepContext]] = Event(
    id="inference.forward.pre",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered right before the forward passes of the step."""

EVENT_INFERENCE_OUTPUTS_READY: Final[Event[EventInferenceOutputsReadyContext]] = Event(
    id="inference.outputs.ready",
    context_name="d9d.loop.event.catalogue.inference.EventInferenceOutputsReadyContext",
    in_step=True,
)
"""Triggered once for each micro-batch, after `process_outputs`, on the processes that have the outputs of the model."""

EVENT_INFERENCE_FORWARD_POST: Final[Event[EventStepContext]] = Event(
    id="inference.forward.post",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered right after all forward passes of the step."""

EVENT_INFERENCE_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="inference.step.post",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
    in_step=True,
)
"""Triggered at the very end of a step, before a checkpoint is saved."""

EVENT_INFERENCE_REPORT_READY: Final[Event[EventReportReadyContext]] = Event(
    id="inference.report.ready",
    context_name="d9d.loop.event.catalogue.common.EventReportReadyContext",
)
"""Triggered when the numbers of a report have reached the host, on every process after the same step."""

EVENT_INFERENCE_CHECKPOINT_STARTED: Final[Event[EventCheckpointContext]] = Event(
    id="inference.checkpoint.start",
    context_name="d9d.loop.event.catalogue.common.EventCheckpointContext",
)
"""Triggered before the state of the job is copied or written for a checkpoint."""

EVENT_INFERENCE_CHECKPOINT_SAVED: Final[Event[EventCheckpointContext]] = Event(
    id="inference.checkpoint.saved",
    context_name="d9d.loop.event.catalogue.common.EventCheckpointContext",
)
"""Triggered when a checkpoint is durable on disk for the whole job, on every process after the same step."""

EVENT_INFERENCE_FINISHED: Final[Event[EventInferenceFinishedContext]] = Event(
    id="inference.finished",
    context_name="d9d.loop.event.catalogue.inference.EventInferenceFinishedContext",
)
"""Triggered after the last step and the last checkpoint, when inference is complete or a handler has stopped it."""

EVENT_INFERENCE_FAILED: Final[Event[EventInferenceFailedContext]] = Event(
    id="inference.failed",
    context_name="d9d.loop.event.catalogue.inference.EventInferenceFailedContext",
)
"""Triggered when an exception has left the configuration or the loop on this process.

A process that is killed, or that the launcher ends while it waits for others, does not trigger it.
"""

EVENT_INFERENCE_CLOSED: Final[Event[EventInferenceClosedContext]] = Event(
    id="inference.closed",
    context_name="d9d.loop.event.catalogue.inference.EventInferenceClosedContext",
)
"""Triggered once, at the very end of a run, however it ended."""
