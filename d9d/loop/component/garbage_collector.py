"""Python's garbage collection, after the same steps on all ranks."""

import gc
from types import TracebackType
from typing import Self

from d9d.core.stepper import Stepper
from d9d.loop.component.best_effort import BestEffort


class GarbageCollector:
    """Collects garbage after the same steps on all ranks, in place of Python's automatic collection.

    If each rank collected at a moment of its own, all others would wait for it in their next collective operation. What
    exists when the loop starts is frozen, so that a collection visits the objects of the loop, and not all of torch.

    Args:
        period_steps: How often to collect, in steps.
        stepper: Counts the steps.
    """

    def __init__(self, period_steps: int, stepper: Stepper) -> None:
        self._period_steps = period_steps
        self._stepper = stepper
        self._guard = BestEffort("garbage collection", "memory may grow", stepper)

    def __enter__(self) -> Self:
        """Collect all garbage, freeze what is left, and switch automatic collection off."""
        self._was_enabled, self._has_frozen = gc.isenabled(), False
        gc.disable()
        with self._guard:
            gc.collect()
            # Objects that others have frozen could not be told from these, and would be unfrozen together with them.
            if gc.get_freeze_count() == 0:
                gc.freeze()
                self._has_frozen = True
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave Python's collector as it was before."""
        if self._has_frozen:
            gc.unfreeze()
        if self._was_enabled:
            gc.enable()

    def step_done(self) -> None:
        """Collect if a period of steps is complete."""
        if self._stepper.current_step % self._period_steps == 0:
            with self._guard:
                gc.collect()
