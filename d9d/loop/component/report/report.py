"""What a loop tells of itself every few steps, and to whom."""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Protocol

# What a line says beside its numbers, and the numbers of the loops themselves; metrics of tasks have other names.
RESERVED_NAMES = frozenset(
    {
        "gradient_norm",
        "learning_rate",
        "loop",
        "loss",
        "peak_memory_bytes",
        "run",
        "samples_per_second",
        "step",
        "steps_per_second",
        "time",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The numbers of a loop at one moment.

    Attributes:
        loop: What the loop does, such as `train`.
        num_steps: How many steps were complete.
        total_steps: Of how many.
        taken_at: When that was.
        numbers: The numbers, by their names.
    """

    loop: str
    num_steps: int
    total_steps: int
    taken_at: dt.datetime
    numbers: Mapping[str, float]


class ReportSink(Protocol):
    """Where reports go; there are some on the main process alone."""

    @property
    def target(self) -> str:
        """Where that is, for messages."""

    def write(self, report: Report) -> None:
        """Write one report.

        Args:
            report: The report.

        Raises:
            OSError: If it cannot be written now.
        """

    def close(self) -> None:
        """Write what is left."""
