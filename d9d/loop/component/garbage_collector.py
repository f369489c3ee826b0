"""When Python looks for objects that only refer to each other, so that no rank does so while others wait for it."""

import gc
from types import TracebackType
from typing import Self

from d9d.core.stepper import Stepper


class GarbageCollector:
    """Collects garbage by hand, after the same steps on all ranks, instead of whenever Python would.

    Left alone, each rank collects at a moment of its own, and all others wait for it in their next collective. What is
    alive when the loop starts is set aside, so that a collection looks through what the loop has made since, and not
    through all of torch.

    Args:
        period_steps: How often to collect, in steps; `None` leaves Python's automatic collection alone.
        stepper: Knows how many steps are complete.
    """

    def __init__(self, period_steps: int | None, stepper: Stepper) -> None:
        self._period_steps = period_steps
        self._stepper = stepper

    def __enter__(self) -> Self:
        """Collect all that there is, and switch automatic collection off."""
        if self._period_steps is None:
            return self
        self._was_enabled = gc.isenabled()
        gc.disable()
        gc.collect()
        # What others have set aside cannot be told from what is set aside here, and would be put back with it.
        self._has_frozen = gc.get_freeze_count() == 0
        if self._has_frozen:
            gc.freeze()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave Python's collector as it was found."""
        if self._period_steps is None:
            return
        if self._has_frozen:
            gc.unfreeze()
        if self._was_enabled:
            gc.enable()

    def step_done(self) -> None:
        """Collect when a period of steps has been completed."""
        if self._period_steps is not None and self._stepper.current_step % self._period_steps == 0:
            gc.collect()
