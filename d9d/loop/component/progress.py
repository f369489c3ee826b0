"""What people see of a running loop."""

import logging
import time
from types import TracebackType
from typing import Self

import torch
from tqdm.auto import tqdm

from d9d.core.stepper import Stepper
from d9d.loop.config import ReportingConfig

logger = logging.getLogger(__name__)


class ProgressReporter:
    """Draws a progress bar, or logs lines where there is no terminal, with the loss every few steps.

    Reading the loss is the only wait for the device that it causes, and only in the steps in which a report is due.

    Args:
        name: What the loop does, such as `train`.
        config: What to show, and how often.
        stepper: Knows the steps.
    """

    def __init__(self, name: str, config: ReportingConfig, stepper: Stepper) -> None:
        self._name = name
        self._stepper = stepper
        self._period_steps = config.period_steps
        # tqdm takes None for "only on a terminal".
        self._is_disabled = None if config.progress_bar is None else not config.progress_bar

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar = tqdm(
            desc=self._name,
            unit="step",
            total=self._stepper.total_steps,
            initial=self._stepper.current_step,
            disable=self._is_disabled,
        )
        self._reported_step, self._reported_at = self._stepper.current_step, time.perf_counter()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def step_done(self, loss: torch.Tensor | None = None) -> None:
        """Show that the current step is done.

        Args:
            loss: The loss of the step, where there is one; read only in steps in which a report is due.
        """
        if self._stepper.is_due(self._period_steps):
            self._report(loss)
        self._bar.update()

    def _report(self, loss: torch.Tensor | None) -> None:
        numbers = {} if loss is None else {"loss": f"{loss.item():.4f}"}
        if not self._bar.disable:
            self._bar.set_postfix(numbers, refresh=False)
            return
        num_done, now = self._stepper.current_step + 1, time.perf_counter()
        steps_per_second = (num_done - self._reported_step) / max(now - self._reported_at, 1e-9)
        self._reported_step, self._reported_at = num_done, now
        numbers["steps/s"] = f"{steps_per_second:.2f}"
        shown = ", ".join(f"{name} {number}" for name, number in numbers.items())
        logger.info("%s: step %d of %d: %s", self._name, num_done, self._stepper.total_steps, shown)
