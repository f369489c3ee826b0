"""What happens when a rank fails: it publishes the cause, and the whole job ends."""

import datetime as dt
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import NoReturn, Self

from torch import distributed
from torch.distributed.elastic.multiprocessing import errors

from d9d.core.dist_context import MeetingPlace, meeting_place

_FAILED = 1
_INTERRUPTED = 130  # by Ctrl-C, as shells have it

_POLL_SECONDS = 0.1
_STORE_TIMEOUT = dt.timedelta(seconds=3)
# How long a rank that has only lost another one waits for the cause, before it looks for ranks that do not respond.
_CAUSE_SECONDS = 5.0
# How long other ranks may take to report the same error, before the error is taken to be one of this rank alone.
_SAME_ERROR_SECONDS = 0.5
_PARENT_POLL_SECONDS = 0.5
_AGENT_STORE_SECONDS = 5.0
_SUMMARY_LINES = 10


class FailureStore:
    """A store in which each rank publishes that it ends, and why; no rank waits for another in it.

    Args:
        place: The store, over a connection that belongs to this object alone: the wait of another user would delay it.
    """

    _CAUSE = "failure/cause"
    _UNRESPONSIVE = "failure/unresponsive"
    _NUM_REPORTED = "failure/num-reported"
    _NUM_DIAGNOSERS = "failure/num-diagnosers"

    def __init__(self, place: MeetingPlace) -> None:
        place.store.set_timeout(_STORE_TIMEOUT)
        self._store = place.store
        self.rank = place.rank
        self.num_ranks = place.num_ranks

    @classmethod
    def connect(cls) -> Self | None:
        """Return the store of this job; `None` if this process has not met others."""
        place = meeting_place()
        return None if place is None else cls(place)

    @property
    def cause(self) -> str | None:
        """The first cause that a rank has published; `None` if there is none yet."""
        return self._store.get(self._CAUSE).decode() if self._store.check([self._CAUSE]) else None

    @property
    def unreported_ranks(self) -> list[int]:
        """The ranks that have not reported: they still run, hang, or were killed."""
        return [rank for rank in range(self.num_ranks) if not self._store.check([self._reported(rank)])]

    @property
    def all_reported(self) -> bool:
        """Whether every rank has reported that it ends."""
        return self._store.add(self._NUM_REPORTED, 0) >= self.num_ranks

    @property
    def is_unresponsive(self) -> bool:
        """Whether other ranks have given up because this one did not respond."""
        if not self._store.check([self._UNRESPONSIVE]):
            return False
        return str(self.rank) in self._store.get(self._UNRESPONSIVE).decode().split()

    def report(self, cause: str | None = None) -> None:
        """Publish that this rank ends; only its first report counts.

        Args:
            cause: Why, if the failure is this rank's own.
        """
        if cause is not None:
            self._store.compare_set(self._CAUSE, "", cause)
        # Adding to a key also makes it exist, which is how others see the report.
        if self._store.add(self._reported(self.rank), 1) == 1:
            self._store.add(self._NUM_REPORTED, 1)

    def report_unresponsive(self, ranks: Sequence[int], cause: str) -> None:
        """Publish that other ranks are the cause.

        Args:
            ranks: The ranks that do not respond.
            cause: What is known.
        """
        self._store.set(self._UNRESPONSIVE, " ".join(str(rank) for rank in ranks))
        self._store.compare_set(self._CAUSE, "", cause)

    def is_first_to_diagnose(self) -> bool:
        """Return whether this rank is the first to ask, and so the one that looks for the cause on behalf of all."""
        return bool(self._store.add(self._NUM_DIAGNOSERS, 1) == 1)

    @staticmethod
    def _reported(rank: int) -> str:
        return f"failure/reported-{rank}"


# Messages of gloo, whose errors are plain RuntimeErrors, and of NCCL.
_LOST_CONNECTION = re.compile(
    r"gloo/transport/|Gloo connect|Application timeout caused pair closure|monitoredBarrier"
    r"|remote process exited|network error|communicator was aborted|[Ww]atchdog"
)


def is_secondary_failure(error: BaseException) -> bool:
    """Return whether an error is only a symptom of another rank's failure.

    Args:
        error: The error; if it was raised because of or during another one, the earliest of them decides.

    Returns:
        Whether it is.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return False
    root, seen = error, {error}
    while (earlier := root.__cause__ or root.__context__) is not None and earlier not in seen:
        root = earlier
        seen.add(root)
    is_of_store = isinstance(root, (distributed.DistNetworkError, distributed.DistStoreError))
    return is_of_store or _LOST_CONNECTION.search(str(root)) is not None


_is_ending = threading.Lock()


def end_job(error: BaseException) -> NoReturn:
    """Publish why this rank failed, and end the process without any collective operation or teardown.

    Those would wait for ranks that wait for this one. The launcher then ends the other ranks.

    Args:
        error: The error of this rank. After a secondary failure, the rank that failed first gets time to publish its
            cause.
    """
    if not _is_ending.acquire(blocking=False):
        threading.Event().wait()  # another thread is ending the job
    try:
        store = None
        with suppress(Exception):  # the store may be gone, and the error must be printed all the same
            store = FailureStore.connect()
        diagnosis = None if store is None else _diagnose(store, error)
        print_from_rank(store, _format(error, diagnosis))
        if diagnosis is not None:
            error.add_note(diagnosis)
        _write_error_file(error)
    except BaseException:  # noqa: BLE001 -- such as Ctrl-C in the meantime
        traceback.print_exc()
    finally:
        leave(_exit_status(error))


ends_failed_jobs = False
"""Whether an error that leaves a loop on one rank alone ends the whole job; `launch` sets it."""


@contextmanager
def closing(error: BaseException, *, has_peers: bool, seconds: float) -> Iterator[None]:
    """Publish the error of this rank, and let the block close what the run has open before the job ends.

    In a job that `launch` started, the process ends when the block is complete, or after some seconds. An error that
    all ranks have, such as a checkpoint that is refused, is left to the caller of the loop.

    Args:
        error: The error that left the loop on this rank.
        has_peers: Whether the job has other ranks.
        seconds: How long the block may take.
    """
    if not (has_peers and ends_failed_jobs):
        yield
        return
    is_closed = threading.Event()
    threading.Thread(
        target=_end_job_unless_all_ranks_fail, args=(error, is_closed, seconds), name="d9d-failure", daemon=True
    ).start()
    with _without_sigterm() if seconds else nullcontext():
        try:
            yield
        finally:
            is_closed.set()


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """Ignore SIGTERM: the launcher ends all ranks when the first one is gone, but this one is not done yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        if previous is not None:  # a handler that is not Python's cannot be restored
            signal.signal(signal.SIGTERM, previous)


def _end_job_unless_all_ranks_fail(error: BaseException, is_closed: threading.Event, closing_seconds: float) -> None:
    """End the job because of an error that other ranks do not have; run in a thread.

    On the way out, this rank may wait for the others: at a barrier in `finally`, say.

    Args:
        error: The error that left the loop on this rank.
        is_closed: Set when the run is closed.
        closing_seconds: How long that may take.
    """
    closes_until = time.monotonic() + closing_seconds
    store = FailureStore.connect()
    if store is None or is_secondary_failure(error):
        if closing_seconds and not is_closed.wait(closing_seconds):
            end_job(error)
        return
    store.report(_cause_of(store, error))
    deadline = time.monotonic() + _SAME_ERROR_SECONDS
    while time.monotonic() < deadline:
        if store.all_reported:
            return
        time.sleep(_POLL_SECONDS / 2)
    is_closed.wait(max(0.0, closes_until - time.monotonic()))
    end_job(error)


def leave_failed_job(store: FailureStore) -> NoReturn:
    """End this process because another rank failed; print where it is, if the others have given up waiting for it.

    Args:
        store: Has the cause.
    """
    if store.is_unresponsive:
        frames = sys._current_frames()  # noqa: SLF001 -- the documented way
        stack = traceback.format_stack(frames[threading.main_thread().ident or 0])
        print_from_rank(store, f"other ranks gave up waiting for this one while it was here:\n{''.join(stack)}")
    leave(_FAILED)


def leave(status: int) -> NoReturn:
    """End this process and the processes that it has started, which may read data and would be left over.

    Args:
        status: The exit status.
    """
    _kill_children()
    os._exit(status)


def print_from_rank(store: FailureStore | None, text: str) -> None:
    """Print to stderr, after the name of the rank.

    Args:
        store: Knows the rank; `None` if there is only one.
        text: Complete lines.
    """
    prefix = "" if store is None else f"[rank {store.rank} of {store.num_ranks}] "
    lost_stream = (AttributeError, OSError, ValueError)  # it is None, its reader is gone, or it is closed
    with suppress(*lost_stream):
        sys.stdout.flush()
    with suppress(*lost_stream):
        sys.stderr.write(prefix + text)  # in one call, so that lines of other ranks do not come in between
        sys.stderr.flush()


def describe(error: BaseException) -> str:
    """Return the type and the message of an error."""
    return traceback.format_exception_only(error)[0].strip()


def summarize(error: BaseException) -> str:
    """Return what an error says: its first line, and the next ones too if that only announces them.

    Args:
        error: The error.

    Returns:
        Some lines. A message of one word, such as a missing key, has the type of the error in front.
    """
    lines = str(error).splitlines()
    if isinstance(error, BaseExceptionGroup):
        lines += [f"- {summarize(each)}" for each in error.exceptions]
    elif not lines or len(lines[0].split()) == 1:
        lines = describe(error).splitlines()[:1]
    elif not lines[0].endswith(":"):
        lines = lines[:1]
    if len(lines) > _SUMMARY_LINES:
        lines = [*lines[:_SUMMARY_LINES], f"… and {len(lines) - _SUMMARY_LINES} more lines"]
    return "\n".join(lines)


def _cause_of(store: FailureStore, error: BaseException) -> str:
    return f"rank {store.rank}: {describe(error)}"


def _diagnose(store: FailureStore, error: BaseException) -> str | None:
    """Publish the error; if it is a secondary failure, return what is known of its cause."""
    try:
        if is_secondary_failure(error):
            return _find_cause(store)
        store.report(_cause_of(store, error))
    except Exception as store_error:  # noqa: BLE001 -- whatever the store raises, the error itself must be printed
        return f"what happened on the other ranks is unknown, since their store cannot be read: {describe(store_error)}"
    return None


def _find_cause(store: FailureStore) -> str:
    """Wait for a rank to publish the cause; if none does, find the ranks that do not respond."""
    store.report()
    deadline = time.monotonic() + _CAUSE_SECONDS
    while time.monotonic() < deadline and not (store.all_reported and store.cause is None):
        time.sleep(_POLL_SECONDS)
    if cause := store.cause:
        return f"this rank only lost its connection to others; the first failure was {cause}"
    missing = store.unreported_ranks
    if not missing:
        return (
            "every rank gave up waiting for the others, so none of them hangs: they started different collective "
            "operations, or the network between them failed"
        )
    if not store.is_first_to_diagnose():
        time.sleep(_CAUSE_SECONDS)  # the first one prints the diagnosis, and the launcher ends the others
    ranks = ", ".join(str(rank) for rank in missing)
    diagnosis = (
        f"this rank gave up waiting for rank{'s' * (len(missing) > 1)} {ranks} of {store.num_ranks}, which did not "
        "respond: look there for code that hangs, or for a process that was killed"
    )
    store.report_unresponsive(missing, diagnosis)
    return diagnosis


def _format(error: BaseException, diagnosis: str | None) -> str:
    if not isinstance(error, SystemExit):
        text = "".join(traceback.format_exception(error))
    elif isinstance(error.code, int):
        text = f"left with exit status {error.code}\n"
    else:
        text = f"{error.code}\n"
    return text if diagnosis is None else f"{diagnosis}\n{text}"


def _write_error_file(error: BaseException) -> None:
    """Write the error to the file whose content torchrun prints at its end."""
    try:
        raise error  # noqa: TRY301 -- what is written is the error that is being handled
    except BaseException:  # noqa: BLE001 -- even Ctrl-C
        with suppress(Exception):
            errors.get_error_handler().record_exception(error)


def _exit_status(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else _FAILED
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else _FAILED


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def start_parent_watchdog() -> None:
    """Make this process end soon after its launcher, even if the launcher was killed.

    A process that is left over would write to the files of the job that replaces it.

    Raises:
        SystemExit: If the launcher is already gone.
    """
    launcher = os.getppid()
    # The launcher may have ended while torch was imported: this process then has another parent, which never ends.
    if not _agent_store_answers():
        raise SystemExit("the launcher is gone: its store does not answer; start the job again")

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_PARENT_POLL_SECONDS)
        _kill_children()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="d9d-parent-watchdog", daemon=True).start()


def _agent_store_answers() -> bool:
    """Return whether torchrun's own store can be reached, which it opens before it starts the ranks."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(address, timeout=_AGENT_STORE_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # perhaps a slow network: joining the other ranks will show
        return True
    return True
