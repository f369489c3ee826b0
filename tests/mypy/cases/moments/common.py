"""Contexts of the small catalogue."""

import dataclasses


@dataclasses.dataclass(kw_only=True)
class EventStepContext:
    """Context of a moment within one step.

    Attributes:
        step: The index of the step.
    """

    step: int
