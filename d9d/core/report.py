"""A report: the numbers of a loop at one moment, on the host."""

import dataclasses
import datetime as dt
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The numbers of a loop after one of its steps.

    Attributes:
        step: How many steps were complete.
        time: When the step was complete, with its time zone.
        metrics: The numbers by name, such as `loss`. Those of an evaluation begin with its name, as in
            `validation/loss`.
    """

    step: int
    time: dt.datetime
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        """Keep a copy of the numbers, so that no handler changes those that the loop compares and saves."""
        object.__setattr__(self, "metrics", dict(self.metrics))
