"""How a loop ends before its last step: on failure, on a hang, or on a stop signal."""

import datetime as dt
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import distributed
from torch.distributed import Work

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.failure import FAILED, FailureStore, describe, end_job, is_secondary_failure, kill_children, say
from d9d.loop.config import TimeoutConfig

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What asks a job to stop: launchers and shells send the first, Slurm the second if told to, before it ends a job."""

# A scheduler may signal all processes of a job, and the launcher passes on what it got: that is one request.
_SAME_REQUEST_SECONDS = 1.0
_POLL_SECONDS = 0.2
_CLOSE = b"\0"

_listening: "list[StopSignal]" = []


def ignore_signals_in_worker(worker: int) -> None:  # noqa: ARG001 -- torch's signature
    """Have a process that reads data be out of reach of what asks its rank to stop.

    torchrun sends SIGTERM to the process group of each rank, and schedulers may send SIGUSR1 to all processes of a job:
    a rank whose reader was ended could not complete its step. Readers end when their rank asks them to, or is gone.

    Args:
        worker: The index of the process among those of its rank.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class StopSignal:
    """Listens for signals within its context, and has all ranks agree on the step after which they stop.

    A process alone merely looks at a flag. Several send their flags through an asynchronous reduction on the host, and
    read it a step later, when it is long complete.

    A handler of Python's does not run while the process is inside a collective operation. A thread hears of the signal
    at once, and ends the process if the same signal comes again a second or more later, or if another rank has failed:
    then the launcher means to end what is left.

    Args:
        dist_context: The processes.
    """

    def __init__(self, dist_context: DistributedContext) -> None:
        self._is_alone = dist_context.world_size == 1
        self._received = 0
        self._first_heard: dict[int, float] = {}
        self._pending: tuple[torch.Tensor, Work] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Begin to listen; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            self._listen()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave all signals to those who had them before."""
        if self in _listening:
            self._end_listening()
        pending, self._pending = self._pending, None
        if error is None and pending is not None:
            pending[1].wait()

    def step_done(self) -> int:
        """Return the signal that ranks have agreed to stop for after this step; 0 means to go on."""
        if self._is_alone:
            return self._received
        agreed = 0
        if self._pending is not None:
            agreed = _read_flag(*self._pending)
        flag = torch.tensor(self._received, dtype=torch.int32)
        work = distributed.all_reduce(flag, distributed.ReduceOp.MAX, async_op=True)
        self._pending = (flag, work)
        return agreed

    def _listen(self) -> None:
        for number in SIGNALS:
            previous = signal.getsignal(number)
            # Who ignores a signal wants it ignored; what is not Python's cannot be put back.
            if previous not in (signal.SIG_IGN, None):
                self._previous[number] = previous
                signal.signal(number, self._note)
        self._receiver, self._sender = socket.socketpair()
        self._sender.settimeout(0)
        self._woken_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._hear, args=(self._receiver,), name="d9d-signals", daemon=True)
        self._thread.start()
        _listening.append(self)

    def give_back(self) -> None:
        """Leave all signals to those who had them before."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._woken_before)

    def _end_listening(self) -> None:
        _listening.remove(self)
        self.give_back()
        self._sender.send(_CLOSE)
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = max(self._received, number)

    def _hear(self, receiver: socket.socket) -> None:
        """Run in a thread of its own, where signals are heard while the main one is busy."""
        words: FailureStore | None = None
        while True:
            is_readable = select.select([receiver], [], [], _POLL_SECONDS if self._first_heard else None)[0]
            numbers = receiver.recv(64) if is_readable else b""
            for number in set(numbers) & set(SIGNALS):
                self._judge(number)
            if not self._is_alone and self._first_heard:
                with suppress(Exception):  # the store may be gone
                    words = words or FailureStore.of_job()
                    if words is not None and words.cause is not None:
                        _leave_failed_job(words)
            # Last: the launcher may end this rank in the very moment in which it loses the one that failed.
            if _CLOSE in numbers:
                return

    def _judge(self, number: int) -> None:
        now = time.monotonic()
        if now - self._first_heard.setdefault(number, now) >= _SAME_REQUEST_SECONDS:
            _leave(128 + number)
        self._received = max(self._received, number)


def _leave_failed_job(words: FailureStore) -> None:
    """End this process after another one; if that one waited for this one, with where this one is."""
    if words.is_blamed:
        frames = sys._current_frames()  # noqa: SLF001 -- Python's documented way
        frame = frames[threading.main_thread().ident or 0]
        say(f"others waited in vain while this rank was here:\n{''.join(traceback.format_stack(frame))}", words)
    _leave(FAILED)


def _leave(status: int) -> None:
    kill_children()
    os._exit(status)


def _hold_back() -> None:
    """Hold signals back around a fork, lest one to the new process come before it can tell that it is another one."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _go_on_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _give_back_in_child() -> None:
    """Let a process that this one forks, whoever does it, be ended by the signals that this one listens for."""
    for listening in _listening:
        listening.give_back()
    _listening.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


_forking = threading.local()
os.register_at_fork(before=_hold_back, after_in_parent=_go_on_in_parent, after_in_child=_give_back_in_child)


def _read_flag(flag: torch.Tensor, work: distributed.Work) -> int:
    """Return what the last step's exchange has come to: on the host, where no device is waited for."""
    work.wait()
    return int(flag.item())


logger = logging.getLogger(__name__)

STOPPED = 75
"""The exit status of a job that stopped on a signal: EX_TEMPFAIL of sysexits.h, which invites to try again."""

_GRACE_SECONDS = 0.5


class StopRequest(SystemExit):
    """Ends a loop that was asked to stop, after its checkpoint; uncaught, it ends the process with its own status."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class Shutdown:
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
    words = FailureStore.of_job()
    if words is None or is_secondary_failure(error):
        return
    words.report(f"rank {words.rank}: {describe(error)}")
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        if words.all_reported:
            return
        time.sleep(0.05)
    end_job(error)
