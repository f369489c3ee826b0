"""How a loop ends before its last step: by a failure, by a wait in vain, or on request."""

import datetime as dt
import logging
import signal
import threading
import time
from types import TracebackType
from typing import Self

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.ending.echo import is_echo
from d9d.loop.component.ending.job_end import describe, end_job
from d9d.loop.component.ending.last_words import LastWords
from d9d.loop.component.ending.stop_signal import StopSignal
from d9d.loop.config import TimeoutConfig

logger = logging.getLogger(__name__)

STOPPED = 75
"""The exit status of a job that stopped on a signal: EX_TEMPFAIL of sysexits.h, which invites to try again."""

_GRACE_SECONDS = 0.5


class StopRequest(SystemExit):
    """Ends a loop that was asked to stop, after its checkpoint; uncaught, it ends the process with its own status."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class Interruption:
    """Watches over a loop, within its context.

    Args:
        dist_context: The processes.
        stepper: Knows how many steps are complete.
        timeouts: How long processes wait for one another.
    """

    ends_failed_jobs = False
    """Whether what leaves a loop as an error on one rank alone may end the whole job; `launch` says so."""

    def __init__(self, dist_context: DistributedContext, stepper: Stepper, timeouts: TimeoutConfig) -> None:
        self._dist_context = dist_context
        self._stepper = stepper
        self._timeouts = timeouts
        self._is_first_step = dist_context.world_size > 1
        self._stop_signal = StopSignal(dist_context)
        self._agreed = 0

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._stop_signal.__enter__()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave signals and timeouts as they were, and see to it that a failure becomes known."""
        self._stop_signal.__exit__(error_type, error, traceback)
        if self._dist_context.world_size == 1:
            return
        if error is None or isinstance(error, StopRequest):
            self._dist_context.set_timeout(dt.timedelta(seconds=self._timeouts.start_seconds))
            return
        error.add_note(
            f"on rank {self._dist_context.rank} of {self._dist_context.world_size}, in step "
            f"{self._stepper.current_step + 1} of {self._stepper.total_steps}"
        )
        if self.ends_failed_jobs:
            threading.Thread(target=_end_if_alone, args=(error,), name="d9d-failure", daemon=True).start()

    @property
    def is_due(self) -> bool:
        """Whether the ranks have agreed to stop after the step that has just been completed."""
        return self._agreed != 0

    def step_done(self) -> None:
        """Ask the others whether to stop; after the first step, wait for them no longer than for later ones."""
        self._agreed = self._stop_signal.step_done()
        if self._is_first_step:
            self._is_first_step = False
            self._dist_context.set_timeout(dt.timedelta(seconds=self._timeouts.step_seconds))

    def stop_if_due(self) -> None:
        """Leave the loop if the ranks have agreed to, unless it has been run to its end.

        Raises:
            StopRequest: If so.
        """
        if self._agreed and not self._stepper.is_finished:
            if self._dist_context.is_main_process:
                logger.warning(
                    "stopped after %d of %d steps on %s, with exit status %d: run the same command again to go on",
                    *(self._stepper.current_step, self._stepper.total_steps),
                    *(signal.Signals(self._agreed).name, STOPPED),
                )
            raise StopRequest


def _end_if_alone(error: BaseException) -> None:
    """End the job for an error that other ranks do not have.

    What the caller of the loop does on the way out may wait for them: a barrier in `finally`, say. Errors that all
    ranks have, such as a refused checkpoint, are left to the caller.
    """
    words = LastWords.of_job()
    if words is None or is_echo(error):
        return
    words.tell(f"rank {words.rank}: {describe(error)}")
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        if words.have_all_told:
            return
        time.sleep(0.05)
    end_job(error)
