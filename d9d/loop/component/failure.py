"""What happens when a rank fails: the cause is published, and the whole job ends."""

import contextlib
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
from collections.abc import Callable, Sequence
from typing import NoReturn, Self

from torch import distributed
from torch.distributed.elastic.multiprocessing import errors

from d9d.core.dist_context import MeetingPlace, meeting_place

_STORE_TIMEOUT = dt.timedelta(seconds=3)
_CAUSE = "failure/cause"
_BLAMED = "failure/blamed"
_NUM_TOLD = "failure/num-told"
_NUM_SPEAKERS = "failure/num-speakers"


class FailureStore:
    """Tells the others how this rank ends, and knows what they told; no process waits for another in it.

    Args:
        place: Where they are kept; the connection belongs to this object alone, since another's wait would delay it.
    """

    def __init__(self, place: MeetingPlace) -> None:
        place.store.set_timeout(_STORE_TIMEOUT)
        self._store = place.store
        self.rank = place.rank
        self.num_ranks = place.num_ranks

    @classmethod
    def of_job(cls) -> Self | None:
        """Return those of this process, if it has met others."""
        place = meeting_place()
        return None if place is None else cls(place)

    @property
    def cause(self) -> str | None:
        """What made the job fail, as the first rank told it that knows; `None` while none does."""
        return self._store.get(_CAUSE).decode() if self._store.check([_CAUSE]) else None

    @property
    def silent(self) -> list[int]:
        """The ranks that have told nothing, which run on, hang, or were killed."""
        return [rank for rank in range(self.num_ranks) if not self._store.check([_told(rank)])]

    @property
    def all_reported(self) -> bool:
        """Whether every rank has told that it ends."""
        return self._store.add(_NUM_TOLD, 0) >= self.num_ranks

    @property
    def is_blamed(self) -> bool:
        """Whether others have given up since this rank told nothing."""
        return self._store.check([_BLAMED]) and str(self.rank) in self._store.get(_BLAMED).decode().split()

    def blame(self, ranks: Sequence[int], cause: str) -> None:
        """Tell that others are the cause.

        Args:
            ranks: Those that told nothing.
            cause: What is known.
        """
        self._store.set(_BLAMED, " ".join(str(rank) for rank in ranks))
        self._store.compare_set(_CAUSE, "", cause)

    def report(self, cause: str | None = None) -> None:
        """Tell that this rank ends; telling it twice is telling it once.

        Args:
            cause: Why, if it is this rank's own failure.
        """
        if cause is not None:
            self._store.compare_set(_CAUSE, "", cause)
        # All that a key has been added to tells; only the first of them is counted.
        if self._store.add(_told(self.rank), 1) == 1:
            self._store.add(_NUM_TOLD, 1)

    def claim(self) -> bool:
        """Return whether this rank is the first that asks, and so the one that speaks for all."""
        return bool(self._store.add(_NUM_SPEAKERS, 1) == 1)


def _told(rank: int) -> str:
    return f"failure/told-{rank}"


# What gloo and NCCL say; gloo's errors are plain RuntimeErrors.
_ECHO = re.compile(
    r"gloo/transport/|Gloo connect|Application timeout caused pair closure|monitoredBarrier"
    r"|remote process exited|network error|communicator was aborted|[Ww]atchdog"
)
_FROM_THE_STORE = (distributed.DistNetworkError, distributed.DistStoreError)


def is_secondary_failure(error: BaseException) -> bool:
    """Say whether an error is no cause, and merely tells that another rank failed or hangs.

    Args:
        error: The error; where it came of another one, that one decides.

    Returns:
        Whether it is an echo.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return False
    root, seen = error, {error}
    while (earlier := root.__cause__ or root.__context__) is not None and earlier not in seen:
        root = earlier
        seen.add(root)
    return isinstance(root, _FROM_THE_STORE) or _ECHO.search(str(root)) is not None


FAILED = 1
"""The exit status of a process that failed."""
INTERRUPTED = 130
"""The exit status of a process that Ctrl-C ended, as shells have it."""

# So long does a rank that merely lost another one wait: the one that failed speaks first, and the launcher ends all.
_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.1

_ending = threading.Lock()


def end_job(error: BaseException) -> NoReturn:
    """Tell why this rank failed, and end the process, with no collective operation and no teardown on the way.

    Either would wait for ranks that wait for this one. The launcher then ends the others.

    Args:
        error: Why; if it is an echo of what happened on another rank, that one is given time to speak first.
    """
    if not _ending.acquire(blocking=False):
        threading.Event().wait()  # another thread is at it
    try:
        _tell(error)
    except BaseException:  # noqa: BLE001 -- such as Ctrl-C while it waits
        traceback.print_exc()
    finally:
        kill_children()
        os._exit(_status(error))


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    return traceback.format_exception_only(error)[0].strip()


def kill_children() -> None:
    """End the processes that this one has started, such as those that read data, which nobody would wait for."""
    for child in multiprocessing.active_children():
        child.kill()


def _tell(error: BaseException) -> None:
    words = None
    with contextlib.suppress(Exception):  # the store may be gone
        words = FailureStore.of_job()
    finding = _finding(words, error)
    say(_text_of(error, finding), words)
    if finding is not None:
        error.add_note(finding)
    _record(error)


def _finding(words: FailureStore | None, error: BaseException) -> str | None:
    """Return what the store tells of the cause, if the error does not."""
    try:
        if words is None:
            return None
        if is_secondary_failure(error):
            return _found_elsewhere(words)
        words.report(f"rank {words.rank}: {describe(error)}")
    except Exception as problem:  # noqa: BLE001 -- whatever the store raises, the error itself has to be told
        return f"what happened on the other ranks is unknown: {describe(problem)}"
    return None


def _found_elsewhere(words: FailureStore) -> str:
    """Wait for the cause to show; then, or if none does, find who is silent."""
    words.report()
    _wait(lambda: words.all_reported and words.cause is None)
    if cause := words.cause:
        return f"this rank only lost others; what failed first is {cause}"
    silent = words.silent
    if silent and not words.claim():
        time.sleep(_PATIENCE_SECONDS)  # one rank speaks for all that wait
    if not silent:
        return (
            "no rank hangs, all of them have given up: either they began different collective operations, or the "
            "network between them failed"
        )
    ranks = ", ".join(str(rank) for rank in silent)
    finding = (
        f"rank{'s' * (len(silent) > 1)} {ranks} of {words.num_ranks} told nothing while this one gave up: look there, "
        "for what hangs or was killed"
    )
    words.blame(silent, finding)
    return finding


def _wait(is_over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and not is_over():
        time.sleep(_POLL_SECONDS)


def _text_of(error: BaseException, finding: str | None) -> str:
    if not isinstance(error, SystemExit):
        text = "".join(traceback.format_exception(error))
    elif isinstance(error.code, int):
        text = f"left with exit status {error.code}\n"
    else:
        text = f"{error.code}\n"
    return text if finding is None else f"{finding}\n{text}"


def say(text: str, words: FailureStore | None) -> None:
    """Print what this process has to say at its end.

    Args:
        text: Whole lines.
        words: Know the rank, where there are several.
    """
    where = "" if words is None else f"[rank {words.rank} of {words.num_ranks}] "
    with contextlib.suppress(OSError, ValueError):  # whoever read it may be gone
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(where + text)  # at once, so that lines of other ranks do not come between
        sys.stderr.flush()


def _record(error: BaseException) -> None:
    """Write the error where torchrun looks for it, to repeat it at the end of its own output."""
    try:
        raise error  # noqa: TRY301 -- what is written is the error that is being handled
    except BaseException:  # noqa: BLE001 -- even Ctrl-C
        with contextlib.suppress(Exception):
            errors.get_error_handler().record_exception(error)


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


_PARENT_POLL_SECONDS = 0.5
_ANSWER_SECONDS = 5.0


def start_parent_watchdog() -> None:
    """Have this process end soon after the one that started it, however that one ended.

    Nobody else would end it, and it would write beside the job that takes its place.

    Raises:
        SystemExit: If the launcher is gone already.
    """
    launcher = os.getppid()
    # While torch was imported the launcher may have ended, and what is the parent now would never end.
    if not _store_answers():
        raise SystemExit("the launcher is gone: its store does not answer; start the job again")
    threading.Thread(target=_watch, args=(launcher,), name="d9d-launcher", daemon=True).start()


def _store_answers() -> bool:
    """Say whether the store is there that torchrun keeps for its processes from before they are started."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(address, timeout=_ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # a slow network, perhaps: joining the others will tell
        return True
    return True


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_PARENT_POLL_SECONDS)
    kill_children()
    os.kill(os.getpid(), signal.SIGKILL)
