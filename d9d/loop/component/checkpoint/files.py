"""Files and folders that survive a crash: durable writes, staging directories, and the lock of a folder."""

import contextlib
import datetime as dt
import errno
import fcntl
import json
import logging
import os
import platform
import secrets
import shutil
from pathlib import Path
from typing import Any


class CheckpointError(RuntimeError):
    """A checkpoint that is incomplete, or that belongs to other settings."""


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs.

    Args:
        path: The file.
        content: What JSON can hold.
    """
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def synchronize_folder(folder: Path) -> None:
    """Have the names in a folder on disk, not only the files that they name.

    Args:
        folder: The folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_STAGING_PREFIX = ".staging-"


def make_staging_directory(path: Path) -> Path:
    """Make a folder for what will be moved to a path when it is complete, and remove what others left.

    Args:
        path: Where it will be moved to.

    Returns:
        The folder: another one each time, lest a process that was left behind writes to it.
    """
    remove_staging_directories(path.parent)
    folder = path.with_name(f"{_STAGING_PREFIX}{path.name}-{secrets.token_hex(4)}")
    # Where all of the path has vanished, a disk has: what is written in its place is found by nobody.
    folder.mkdir()
    return folder


def remove_at_once(path: Path) -> None:
    """Remove a folder, so that at no instant half of it is there.

    Args:
        path: The folder; need not exist.
    """
    leaving = path.with_name(f"{_STAGING_PREFIX}removed-{path.name}")
    if path.exists():
        path.rename(leaving)
        shutil.rmtree(leaving)


def remove_staging_directories(folder: Path) -> None:
    """Remove what killed processes left on its way in or out.

    Args:
        folder: Where a job keeps its checkpoints.
    """
    for leftover in folder.glob(f"{_STAGING_PREFIX}*"):
        shutil.rmtree(leftover)


logger = logging.getLogger(__name__)

_NAME = ".lock"
_MAX_BYTES = 1000
# What a file system says that keeps no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderLock:
    """Keeps a folder for one job, as long as its main process lives, however that ends.

    The lock is one of POSIX: the kernel gives it back with the process, a network file system when it has missed the
    machine for a while, and no process that is forked inherits it. The file `.lock` merely names its holder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _NAME
        # Not a file object: a loop that fails keeps its lock until the process ends, and a save beside it may go on.
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            CheckpointError: If another job has it, with its machine, process and start; or if there can be no file.
        """
        while self._descriptor is None:
            descriptor = self._open()
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, _MAX_BYTES)
                os.close(descriptor)
                if error.errno not in _NO_LOCKS:
                    raise self._in_use(holder) from error
                logger.warning(
                    "%s is on a file system without locks: run no second job there (%s)", self._folder, error
                )
                return
            # The holder before may have removed the file between the two lines above.
            if self._is_at_its_path(descriptor):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        holder = json.dumps({"host": platform.node(), "pid": os.getpid(), "started": started}).encode()
        with contextlib.suppress(OSError):  # on a full disk the lock holds, and does not say whose it is
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, holder)

    def release(self) -> None:
        """Give the folder back, if it is held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):  # the file alone keeps nobody out
            self._path.unlink()
        os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CheckpointError(
                f"checkpointing.folder={str(self._folder)!r} cannot be written to ({error}): mend that, and run again"
            ) from error

    def _is_at_its_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _in_use(self, holder: bytes) -> CheckpointError:
        try:
            told = json.loads(holder)
            name = f"process {told['pid']} on {told['host']}, since {told['started']}"
        except (ValueError, LookupError, TypeError):
            name = "it has not said which"
        return CheckpointError(
            f"checkpointing.folder={str(self._folder)!r} is in use by another job ({name}), and two would remove each "
            "other's checkpoints: wait for it or end it, or name another folder"
        )
