"""Early stopping, written as a subscriber: one process decides, and all of them stop after the same step."""

import math
from typing import Any

from d9d import subscribe
from d9d.loop.event.catalogue.common import EventReportReadyContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_REPORT_READY


class EarlyStopping:
    """Stops a training run when a number has not fallen for several reports.

    The main process decides alone: it is enough that one process asks the loop to stop. Its state is in checkpoints, so
    a run that resumes does not start to count again.

    Args:
        metric: The number, such as `loss`, or `validation/loss` of an evaluation named `validation`.
        patience: How many reports in a row may be no better than the best one.
        min_delta: By how much a report must be lower to be better.
    """

    def __init__(self, metric: str, *, patience: int, min_delta: float = 0.0) -> None:
        self._metric = metric
        self._patience = patience
        self._min_delta = min_delta
        self._best = math.inf
        self._num_worse = 0

    @subscribe(EVENT_TRAIN_REPORT_READY, main_process_only=True)
    def judge(self, ctx: EventReportReadyContext) -> None:
        """Compare a report with the best one so far."""
        number = ctx.report.metrics.get(self._metric)
        if number is None:  # a report of something else
            return
        if number < self._best - self._min_delta:
            self._best, self._num_worse = number, 0
            return
        self._num_worse += 1
        if self._num_worse >= self._patience:
            ctx.control.stop(f"{self._metric} has not fallen below {self._best:.4g} in {self._num_worse} reports")

    def state_dict(self) -> dict[str, Any]:
        """Return the best number so far, and for how long nothing was better."""
        return {"best": self._best, "num_worse": self._num_worse}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore what `state_dict` returned."""
        self._best, self._num_worse = state_dict["best"], state_dict["num_worse"]
