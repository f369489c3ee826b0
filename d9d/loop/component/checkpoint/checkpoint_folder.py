"""The folder in which a job keeps its checkpoints."""

import logging
import tempfile
from pathlib import Path

from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.checkpoint.saved_state import CheckpointError
from d9d.loop.config import ConfigurationError

logger = logging.getLogger(__name__)


def prepare_folder(folder: Path) -> None:
    """Find out now, and not at the first save, whether checkpoints can be written.

    Args:
        folder: Where a job will keep its checkpoints; made if it is not there.

    Raises:
        ConfigurationError: If it cannot be made or written to, or something else bears the name of a checkpoint.
    """
    named = f"checkpointing.folder={str(folder)!r}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(f"{named} cannot be written to ({error}): name another folder, or free it") from error
    for path in folder.iterdir():
        if Checkpoint.is_name(path.name) and (path.is_symlink() or not path.is_dir()):
            raise ConfigurationError(f"{named} holds {path.name}, which is no folder: move it away")


def find_complete(folder: Path) -> Checkpoint | None:
    """Find the newest complete checkpoint, and warn of newer ones that are not.

    Args:
        folder: Where a job keeps its checkpoints.

    Returns:
        The checkpoint, or `None` if there is none at all.

    Raises:
        CheckpointError: If there are checkpoints and none is complete, or a newer version of d9d has written one of
            those that are newer.
    """
    checkpoint, defects = _newest_complete(folder)
    if checkpoint is None and defects:
        raise CheckpointError(
            "no checkpoint can be loaded:\n  " + "\n  ".join(defects) + "\nRestore one, or remove them to begin anew."
        )
    for defect in defects:
        logger.warning("%s; going back to %s", defect, checkpoint.path if checkpoint else None)
    return checkpoint


def _newest_complete(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, if there is one, and what is wrong with each newer one."""
    defects: list[str] = []
    for checkpoint in Checkpoint.list_in(folder):
        defect = checkpoint.defect()
        if defect is None:
            return checkpoint, defects
        if checkpoint.is_of_newer_format():  # going back would be to lose steps, and in time to overwrite it
            raise CheckpointError(f"{checkpoint.path} cannot be gone on from: {defect}, or name another folder")
        defects.append(f"{checkpoint.path} is incomplete: {defect}")
    return None, defects
