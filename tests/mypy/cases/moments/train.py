"""Events of a small training loop."""

import dataclasses

from d9d.loop.event import Event
from moments.common import EventStepContext


@dataclasses.dataclass(kw_only=True)
class EventReadyContext:
    """Context of the moment at which training can begin."""


EVENT_TRAIN_READY: Event[EventReadyContext] = Event(id="train.ready")
"""Triggered right before the loop starts."""

EVENT_TRAIN_STEP_PRE: Event[EventStepContext] = Event(id="train.step.pre")
"""Triggered at the beginning of a step."""

EVENT_TRAIN_STEP_POST: Event[EventStepContext] = Event(id="train.step.post")
"""Triggered at the end of a step."""
