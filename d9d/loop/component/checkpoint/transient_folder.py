"""Folders on their way in or out: they belong to no checkpoint, and may be removed at any time."""

import secrets
import shutil
from pathlib import Path

_PREFIX = ".transient-"


def make_transient(path: Path) -> Path:
    """Make a folder for what will be moved to a path when it is complete, and remove what others left.

    Args:
        path: Where it will be moved to.

    Returns:
        The folder: another one each time, lest a process that was left behind writes to it.
    """
    remove_transient(path.parent)
    folder = path.with_name(f"{_PREFIX}{path.name}-{secrets.token_hex(4)}")
    # Where all of the path has vanished, a disk has: what is written in its place is found by nobody.
    folder.mkdir()
    return folder


def remove_at_once(path: Path) -> None:
    """Remove a folder, so that at no instant half of it is there.

    Args:
        path: The folder; need not exist.
    """
    leaving = path.with_name(f"{_PREFIX}removed-{path.name}")
    if path.exists():
        path.rename(leaving)
        shutil.rmtree(leaving)


def remove_transient(folder: Path) -> None:
    """Remove what killed processes left on its way in or out.

    Args:
        folder: Where a job keeps its checkpoints.
    """
    for leftover in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(leftover)
