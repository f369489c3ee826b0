"""How a loop ends before its last step: on failure, on a hang, or on a stop signal."""

import collections
import datetime as dt
import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.failure import FailureStore, leave, leave_failed_job
from d9d.loop.config import TimeoutConfig

STOPPED = 75
"""The exit status of a job that stopped on a signal: EX_TEMPFAIL of sysexits.h, which invites a retry."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
"""The signals that request a stop. Launchers and shells send the first; Slurm can send the second ahead of time; the
third is Ctrl-C, and the last comes when a terminal is closed."""

# A scheduler may signal all processes of a job, and the launcher forwards its own signal: that is one request.
_SAME_REQUEST_SECONDS = 1.0
_POLL_SECONDS = 0.2
_NUM_INTERRUPTS = 2
"""How often Ctrl-C leaves it to the main thread to end."""
_CLOSE = b"\0"


logger = logging.getLogger(__name__)


class StopRequest(SystemExit):
    """Raised by a loop that stops on a signal, after its checkpoint; uncaught, it ends the process with status 75.

    Attributes:
        signal_name: The name of the signal, such as `SIGTERM`.

    Args:
        number: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(STOPPED)
        self.signal_name = signal.Signals(number).name


class Shutdown:
    """Listens for stop signals while a loop runs, and sets how long ranks wait for each other.

    Ranks wait longer until the first step is complete than after it.

    Attributes:
        signals: The stop signals that this process has received.

    Args:
        dist_context: The processes of the job.
        stepper: Counts the steps.
        timeouts: How long ranks wait for each other.
    """

    def __init__(self, dist_context: DistributedContext, stepper: Stepper, timeouts: TimeoutConfig) -> None:
        self._dist_context = dist_context
        self._stepper = stepper
        self._timeouts = timeouts
        self.signals = SignalListener(has_peers=dist_context.world_size > 1)

    def __enter__(self) -> Self:
        """Start to listen for signals."""
        self.signals.__enter__()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore signals and timeouts, and add to an error where it happened."""
        self.signals.__exit__(error_type, error, traceback)
        if self._dist_context.world_size == 1:
            return
        if error is None:
            self._dist_context.set_timeout(dt.timedelta(seconds=self._timeouts.start_seconds))
            return
        error.add_note(
            f"on rank {self._dist_context.rank} of {self._dist_context.world_size}, in step "
            f"{self._stepper.current_step + 1} of {self._stepper.total_steps}"
        )

    def first_step_done(self) -> None:
        """Shorten the timeout, since nothing is built or compiled any more."""
        self._dist_context.set_timeout(dt.timedelta(seconds=self._timeouts.step_seconds))


class SignalListener:
    """Receives stop signals within its context.

    Python's own signal handlers do not run while the main thread is in a collective operation. A thread is woken at
    once. It ends the process if the same signal comes again a second or more later, or if another rank has failed: the
    launcher then means to end all ranks. torchrun passes the first Ctrl-C on, and sends SIGTERM for the second one. A
    second Ctrl-C in a process without a launcher needs no second in between: it raises `KeyboardInterrupt`, as Python
    does.

    Attributes:
        received: The number of the signal that was received, or 0.

    Args:
        has_peers: Whether the job has other ranks.
    """

    def __init__(self, *, has_peers: bool) -> None:
        self.received = 0
        self._has_peers = has_peers
        self._has_launcher = has_peers or "TORCHELASTIC_RUN_ID" in os.environ
        self._num_interrupts = 0
        self._num_received: dict[int, int] = collections.Counter()
        self._first_received_at: dict[int, float] = {}
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Start to listen; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in STOP_SIGNALS:
            previous = signal.getsignal(number)
            # An ignored signal stays ignored, and a handler that is not Python's could not be restored.
            if previous not in (signal.SIG_IGN, None):
                self._previous_handlers[number] = previous
                signal.signal(number, self._handle)
        self._receiver, self._sender = socket.socketpair()
        self._sender.settimeout(0)
        self._previous_wakeup_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, args=(self._receiver,), name="d9d-signals", daemon=True)
        self._thread.start()
        _active_listeners.append(self)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers, and end the thread."""
        if self not in _active_listeners:
            return
        _active_listeners.remove(self)
        self.restore_handlers()
        self._sender.send(_CLOSE)
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    def restore_handlers(self) -> None:
        """Give the signals back to the handlers that they had before."""
        for number, previous in self._previous_handlers.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._previous_wakeup_fd)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_again = number == signal.SIGINT and self._num_interrupts > 0
        self._num_interrupts += number == signal.SIGINT
        self.received = max(self.received, number)
        previous = self._previous_handlers[number]
        if is_again and not self._has_launcher and callable(previous):
            previous(number, frame)

    def _run(self, receiver: socket.socket) -> None:
        """Receive signals in a thread, while the main one may be busy."""
        store: FailureStore | None = None
        while True:
            # Not `select.select`, which knows only the first 1024 files of a process: a large job has more connections.
            receiver.settimeout(_POLL_SECONDS if self._first_received_at else None)
            try:
                numbers = receiver.recv(64)
            except TimeoutError:
                numbers = b""
            for number in set(numbers) & set(STOP_SIGNALS):
                self._receive(number)
            if self._has_peers and self._first_received_at:
                with suppress(Exception):  # the store may be gone
                    store = store or FailureStore.connect()
                    if store is not None and store.cause is not None:
                        leave_failed_job(store)
            # Last: the launcher may end this rank at the very moment at which its loop fails because of another rank.
            if _CLOSE in numbers:
                return

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        is_typed = number == signal.SIGINT and not self._has_launcher
        if is_typed and number not in self._first_received_at:
            logger.warning(
                "Ctrl-C: the run stops after the next step, with a checkpoint if it has any. Press it again to stop at "
                "once"
            )
        first_at = self._first_received_at.setdefault(number, now)
        if number == signal.SIGTERM and self._has_launcher:
            first_at = min(first_at, self._first_received_at.get(signal.SIGINT, now))
        is_later = now - first_at >= _SAME_REQUEST_SECONDS
        self._num_received[number] += 1
        # The second Ctrl-C raises KeyboardInterrupt once the main thread is back in Python; the third cannot wait.
        if is_later and (not is_typed or self._num_received[number] > _NUM_INTERRUPTS):
            leave(128 + number)
        self.received = max(self.received, number)


_active_listeners: list[SignalListener] = []
_forking = threading.local()


def _before_fork() -> None:
    """Block stop signals, so that none arrives in the child before it has restored the handlers."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    """Let the stop signals of this process end a child that it has forked, as they would without a loop."""
    for listener in _active_listeners:
        listener.restore_handlers()
    _active_listeners.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def ignore_signals_in_worker(worker: int) -> None:  # noqa: ARG001 -- torch's signature
    """Keep stop signals that are meant for the rank from a process that reads data for it.

    torchrun sends SIGTERM to the process group of each rank, and schedulers may send SIGUSR1 to all processes of a job.
    A rank could not complete its step without its data. Workers end when their rank asks them to, or is gone.

    Args:
        worker: The index of the process among the workers of its rank.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
