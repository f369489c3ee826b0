# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 36b8e3014ff58a4c, body 6ea0d65da09e318b
"""Events of the inference loop."""

import dataclasses
from typing import (
    Final,
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
    "EVENT_INFERENCE_CONFIG_STARTED",
    "EVENT_INFERENCE_DATA_LOADER_READY",
    "EVENT_INFERENCE_FINISHED",
    "EVENT_INFERENCE_FORWARD_POST",
    "EVENT_INFERENCE_FORWARD_PRE",
    "EVENT_INFERENCE_MODEL_STAGES_READY",
    "EVENT_INFERENCE_READY",
    "EVENT_INFERENCE_STEP_POST",
    "EVENT_INFERENCE_STEP_PRE",
    "EventConfigurationStartedContext",
    "EventDataLoaderReadyContext",
    "EventInferenceFinishedContext",
    "EventInferenceReadyContext",
    "EventModelStagesReadyContext",
    "EventStepContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceReadyContext:
    """Context of the moment at which inference can begin and the checkpoint is loaded."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceFinishedContext:
    """Context of the moment at which the whole inference loop has ended successfully."""


EVENT_INFERENCE_CONFIG_STARTED: Final[Event[EventConfigurationStartedContext]] = Event(
    id="inference.configuration.start",
)
"""Triggered when the configuration of inference begins. Gives access to the distributed context."""

EVENT_INFERENCE_DATA_LOADER_READY: Final[Event[EventDataLoaderReadyContext]] = Event(
    id="inference.configuration.data_loader",
)
"""Triggered when the data loader of inference is fully initialised."""

EVENT_INFERENCE_MODEL_STAGES_READY: Final[Event[EventModelStagesReadyContext]] = Event(
    id="inference.configuration.model_stages",
)
"""Triggered when the model stages are initialised for inference."""

EVENT_INFERENCE_READY: Final[Event[EventInferenceReadyContext]] = Event(
    id="inference.ready",
)
"""Triggered right before the main inference loop starts, after configuration is complete and checkpoints are loaded."""

EVENT_INFERENCE_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="inference.step.pre",
)
"""Triggered at the absolute beginning of an inference step."""

EVENT_INFERENCE_FORWARD_PRE: Final[Event[EventStepContext]] = Event(
    id="inference.forward.pre",
)
"""Triggered immediately before the forward passes of the step begin."""

EVENT_INFERENCE_FORWARD_POST: Final[Event[EventStepContext]] = Event(
    id="inference.forward.post",
)
"""Triggered immediately after all forward passes of the step have finished."""

EVENT_INFERENCE_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="inference.step.post",
)
"""Triggered at the very end of an inference step, after everything in it but checkpointing."""

EVENT_INFERENCE_FINISHED: Final[Event[EventInferenceFinishedContext]] = Event(
    id="inference.finished",
)
"""Triggered when the whole inference loop has finished successfully."""
