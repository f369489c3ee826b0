"""Events of a small inference loop."""

from d9d.loop.event import Event
from moments.common import EventStepContext

EVENT_INFERENCE_STEP_POST: Event[EventStepContext] = Event(id="inference.step.post")
"""Triggered at the end of a step."""
