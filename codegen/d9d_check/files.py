"""Reading files that may be anything: only regular files of a sensible size are read."""

import os
import stat
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 64_000_000


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: If it cannot be read, is a folder, a pipe or a device, which could be read for ever, or is too large.
        ValueError: If the path is none that a file can have.
    """
    # The file is opened first, without waiting for the other end of a pipe, so that it cannot change in between.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a file")
        if status.st_size > _MAX_BYTES:
            raise OSError(f"it has more than {_MAX_BYTES:,} bytes")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(_MAX_BYTES)
    finally:
        os.close(descriptor)
