"""How a rank that failed ends, and the whole job with it, so that people see the cause and see it first."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from d9d.loop.component.ending.echo import is_echo
from d9d.loop.component.ending.last_words import LastWords

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
        words = LastWords.of_job()
    finding = _finding(words, error)
    say(_told(error, finding), words)
    if finding is not None:
        error.add_note(finding)
    _record(error)


def _finding(words: LastWords | None, error: BaseException) -> str | None:
    """Return what the store tells of the cause, if the error does not."""
    try:
        if words is None:
            return None
        if is_echo(error):
            return _found_elsewhere(words)
        words.tell(f"rank {words.rank}: {describe(error)}")
    except Exception as problem:  # noqa: BLE001 -- whatever the store raises, the error itself has to be told
        return f"what happened on the other ranks is unknown: {describe(problem)}"
    return None


def _found_elsewhere(words: LastWords) -> str:
    """Wait for the cause to show; then, or if none does, find who is silent."""
    words.tell()
    _wait(lambda: words.have_all_told and words.cause is None)
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


def _told(error: BaseException, finding: str | None) -> str:
    if not isinstance(error, SystemExit):
        text = "".join(traceback.format_exception(error))
    elif isinstance(error.code, int):
        text = f"left with exit status {error.code}\n"
    else:
        text = f"{error.code}\n"
    return text if finding is None else f"{finding}\n{text}"


def say(text: str, words: LastWords | None) -> None:
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
            from torch.distributed.elastic.multiprocessing import errors  # noqa: PLC0415 -- see d9d.loop.run.launch

            errors.get_error_handler().record_exception(error)


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
