"""After which steps the state of a job is saved."""

import time

import torch
from torch import distributed

from d9d.core.stepper import Stepper
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import CheckpointingConfig

_PERIOD_OF_CLOCK_STEPS = 5
_SECONDS_PER_MINUTE = 60.0


class SaveSchedule:
    """Says when a save is due: every few steps, every few minutes, and after the last step; on all processes alike.

    The clock of the main process counts the minutes. Every few steps it begins to tell the others whether they have
    passed, and all read that one step later, when it has arrived while they were busy.

    Args:
        config: Holds the periods.
        stepper: Knows how many steps are complete.
        ranks: The processes of the job, all of which call each method at once.
    """

    def __init__(self, config: CheckpointingConfig, stepper: Stepper, ranks: Ranks) -> None:
        self._period_steps = config.period_steps
        self._period_seconds = None if config.period_minutes is None else config.period_minutes * _SECONDS_PER_MINUTE
        self._stepper = stepper
        self._ranks = ranks if self._period_seconds is None else ranks.apart()
        self._has_passed = torch.zeros((), dtype=torch.uint8)
        self._telling: distributed.Work | None = None
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Say whether to save now; called once after each step."""
        num_steps = self._stepper.current_step
        is_time = self._period_seconds is not None and self._is_time(num_steps, self._period_seconds)
        is_step = self._period_steps is not None and num_steps % self._period_steps == 0
        return is_time or is_step or self._stepper.is_finished

    def saved(self) -> None:
        """Count the minutes from now on."""
        self._told()  # it is about the time before
        self._saved_at = time.monotonic()

    def _is_time(self, num_steps: int, period_seconds: float) -> bool:
        has_passed = time.monotonic() - self._saved_at >= period_seconds
        if self._ranks.is_alone:
            return has_passed
        told = self._told()
        if num_steps % _PERIOD_OF_CLOCK_STEPS == 0:
            self._has_passed.fill_(has_passed)
            self._telling = distributed.broadcast(self._has_passed, group=self._ranks.group, group_src=0, async_op=True)
        return told

    def _told(self) -> bool:
        """Return what the main process has told since the last call, if anything."""
        telling, self._telling = self._telling, None
        if telling is None:
            return False
        telling.wait()
        return bool(self._has_passed)
