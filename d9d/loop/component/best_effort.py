"""Work that a run can do without: an error in it is logged once, and the run continues."""

import logging
from contextlib import suppress
from types import TracebackType

from d9d.core.stepper import Stepper
from d9d.loop.component.failure import describe

logger = logging.getLogger(__name__)


class BestEffort:
    """A context that may be entered again and again, and keeps the errors of its body from the loop.

    Reports, traces and housekeeping run in one: a full disk or a closed terminal must not end a run of days. Only the
    first error is logged. What is not an `Exception`, such as `KeyboardInterrupt` or `SystemExit`, passes.

    Attributes:
        stepper: Knows how many steps are complete; `None` before the steps of the run are counted.

    Args:
        target: What the work is for, as users know it, such as `reporting.json_lines=runs/metrics.jsonl`.
        consequence: What users miss after an error, and what they can do about it.
        stepper: The same.
    """

    def __init__(self, target: str, consequence: str, stepper: Stepper | None = None) -> None:
        self.stepper = stepper
        self._target = target
        self._consequence = consequence
        self._has_failed = False

    def __enter__(self) -> None:
        """Begin the work."""

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Suppress an error of the work, and log the first one."""
        if not isinstance(error, Exception):
            return False
        if not self._has_failed:
            self._has_failed = True
            stepper = self.stepper
            when = (
                "before the first step"
                if stepper is None
                else f"after {stepper.current_step} of {stepper.total_steps} steps"
            )
            with suppress(Exception):  # the log may go to the very stream that cannot be written to
                logger.warning(
                    "%s: %s, %s. The run continues: %s. This is logged only once.",
                    *(self._target, describe(error), when, self._consequence),
                    # An error of the system says all there is to know; any other may be a bug.
                    exc_info=None if isinstance(error, OSError) else error,
                )
        return True
