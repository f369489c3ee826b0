"""A monitor of losses, written as a subscriber: it sees the loss of each micro-batch and reads them every few steps."""

import math
from collections.abc import Callable

import torch

from d9d import subscribe
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_STEP_POST,
    EventLossReadyContext,
    EventStepContext,
)


class LossMonitor:
    """Logs the mean and the largest loss of the micro-batches of this process, and stops the run if the mean is NaN.

    Everything stays on the device until it is logged, so other steps do not wait for it. In a pipeline the processes
    with the last stage have losses; the others log nothing.

    Args:
        period_steps: How often to log, in steps.
        log: Receives each line.
    """

    def __init__(self, *, period_steps: int, log: Callable[[str], object] = print) -> None:
        self._period_steps = period_steps
        self._log = log
        self._weighted: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []
        self._largest: torch.Tensor | None = None

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def collect(self, ctx: EventLossReadyContext) -> None:
        """Keep the loss of a micro-batch; it is detached, so this keeps nothing else in memory."""
        weight = torch.ones_like(ctx.loss) * ctx.loss_weight  # the weight may be a number
        loss = torch.where(weight == 0, 0.0, ctx.loss)  # a mean over no tokens is NaN, and counts nothing
        self._weighted.append(loss * weight)
        self._weights.append(weight)
        self._largest = loss if self._largest is None else torch.maximum(self._largest, loss)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        """Log what was collected, if this step is due."""
        if not ctx.stepper.is_due(self._period_steps) or self._largest is None:
            return
        total, weight = torch.stack(self._weighted).sum(), torch.stack(self._weights).sum()
        mean = total / torch.where(weight == 0, 1.0, weight)
        mean, largest = torch.stack([mean, self._largest]).tolist()  # here the host waits for the device
        step = ctx.stepper.current_step + 1
        self._log(f"step {step}: mean loss {mean:.4f}, largest {largest:.4f}, {len(self._weights)} micro-batches")
        self._weighted, self._weights, self._largest = [], [], None
        if math.isnan(mean):
            ctx.control.stop(f"the loss is NaN in one of the {self._period_steps} steps up to step {step}")
