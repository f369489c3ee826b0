# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 138d6035657586c3, body 1700d228f2612785
"""Events of the throughput meter."""

import dataclasses
from typing import (
    Final,
)

from d9d.core.stepper import (
    Stepper,
)
from d9d.loop.event import (
    Event,
)
from d9d.loop.event.catalogue.common import (
    EventStepContext,
)

__all__ = [
    "EVENT_THROUGHPUT_DUE",
    "EVENT_THROUGHPUT_MEASURED",
    "EventStepContext",
    "EventThroughputContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventThroughputContext:
    """Context of a measurement.

    Attributes:
        stepper: Knows the step after which the measurement was taken.
        steps_per_second: The speed since the measurement before.
    """

    stepper: Stepper
    steps_per_second: float


EVENT_THROUGHPUT_DUE: Final[Event[EventStepContext]] = Event(
    id="throughput.due",
    context_name="d9d.loop.event.catalogue.common.EventStepContext",
)
"""Triggered right before a measurement, after the last step of its period."""

EVENT_THROUGHPUT_MEASURED: Final[Event[EventThroughputContext]] = Event(
    id="throughput.measured",
    context_name="throughput.events.throughput.EventThroughputContext",
)
"""Triggered after each period of steps, and after the last step."""
