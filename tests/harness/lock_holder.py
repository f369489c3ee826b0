"""A process that locks a folder, for tests of the error that a second job gets."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from d9d.loop.component.checkpoint.files import FolderLock


@contextmanager
def holder_of(folder: Path, *, child_seconds: float = 0.0) -> Iterator[ForkServerProcess]:
    """Start a process that locks a folder until the context exits.

    Args:
        folder: The folder, which is created if it does not exist.
        child_seconds: If not zero, the process forks a child that lives for this many seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["d9d.loop.component.checkpoint.files"])  # imports torch once
    own_end, other_end = context.Pipe()
    process = context.Process(target=_hold, args=(folder, child_seconds, other_end))
    process.start()
    try:
        assert own_end.recv() == "locked"
        yield process
    finally:
        process.kill()
        process.join()


def _hold(folder: Path, child_seconds: float, connection: Connection) -> None:
    FolderLock(folder).acquire()
    if child_seconds and os.fork() == 0:
        time.sleep(child_seconds)
        os._exit(0)
    connection.send("locked")
    time.sleep(600)
