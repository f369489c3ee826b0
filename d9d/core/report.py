"""A report: the numbers of a loop at one moment, on the host."""

import dataclasses
import datetime as dt
import functools
import types
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The numbers of a loop after one of its steps.

    Attributes:
        step: How many steps were complete.
        time: When the step was complete, with its time zone.
        metrics: The numbers by name, such as `loss`. Those of an evaluation begin with its name, as in
            `validation/loss`. Read-only, since all handlers get the same; `dict(report.metrics)` is a copy.
    """

    step: int
    time: dt.datetime
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        """Keep a read-only copy of the numbers."""
        object.__setattr__(self, "metrics", types.MappingProxyType(dict(self.metrics)))

    def __reduce__(self) -> tuple[Callable[[], "Report"], tuple[()]]:
        """Support `pickle` and `copy`, which cannot copy a read-only mapping."""
        return functools.partial(Report, step=self.step, time=self.time, metrics=dict(self.metrics)), ()
