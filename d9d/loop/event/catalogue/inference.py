# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 733dd6ea2284d369, body 7bbab66e1c95a5cb
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
    """Context of the event right before the first inference step."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventInferenceFinishedContext:
    """Context of the event after the last inference step."""


EVENT_INFERENCE_CONFIG_STARTED: Final[Event[EventConfigurationStartedContext]] = Event(
    id="inference.configuration.start",
)
"""Triggered at the start of configuration. Handlers get access to the distributed context."""

EVENT_INFERENCE_DATA_LOADER_READY: Final[Event[EventDataLoaderReadyContext]] = Event(
    id="inference.configuration.data_loader",
)
"""Triggered after the data loader is built."""

EVENT_INFERENCE_MODEL_STAGES_READY: Final[Event[EventModelStagesReadyContext]] = Event(
    id="inference.configuration.model_stages",
)
"""Triggered after the model stages are built and parallelised. The weights are not loaded yet."""

EVENT_INFERENCE_READY: Final[Event[EventInferenceReadyContext]] = Event(
    id="inference.ready",
)
"""Triggered right before the first step, after configuration is complete and weights and checkpoint are loaded."""

EVENT_INFERENCE_STEP_PRE: Final[Event[EventStepContext]] = Event(
    id="inference.step.pre",
)
"""Triggered at the very beginning of a step."""

EVENT_INFERENCE_FORWARD_PRE: Final[Event[EventStepContext]] = Event(
    id="inference.forward.pre",
)
"""Triggered right before the forward passes of the step."""

EVENT_INFERENCE_FORWARD_POST: Final[Event[EventStepContext]] = Event(
    id="inference.forward.post",
)
"""Triggered right after all forward passes of the step."""

EVENT_INFERENCE_STEP_POST: Final[Event[EventStepContext]] = Event(
    id="inference.step.post",
)
"""Triggered at the very end of a step, before a checkpoint is saved."""

EVENT_INFERENCE_FINISHED: Final[Event[EventInferenceFinishedContext]] = Event(
    id="inference.finished",
)
"""Triggered after the last step, when inference is complete."""
