# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue fcdc0d8de2db37c3, body 5b6c130a553c7e9d
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

__all__ = [
    "EVENT_THROUGHPUT_MEASURED",
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


EVENT_THROUGHPUT_MEASURED: Final[Event[EventThroughputContext]] = Event(
    id="throughput.measured",
)
"""Triggered after each period of steps, and after the last step."""
