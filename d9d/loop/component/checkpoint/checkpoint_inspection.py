"""What people want to know of the checkpoints in a folder."""

import dataclasses
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.checkpoint.checkpoint_folder import find_complete
from d9d.loop.component.checkpoint.saved_state import CheckpointError, SavedState
from d9d.loop.component.checkpoint.state_tree import empty_tensors


@dataclasses.dataclass(frozen=True)
class CheckpointSummary:
    """A checkpoint, at a glance.

    Attributes:
        num_steps: How many steps were complete.
        time: When it was taken, by the clock of the main process; empty where nobody knows.
        num_bytes: How much of the disk it takes.
        mesh: How the processes were laid out that took it; empty where nobody knows.
        defect: What is missing or damaged, as far as names and sizes of files tell; `None` if nothing is.
    """

    num_steps: int
    time: str
    num_bytes: int
    mesh: str
    defect: str | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "CheckpointSummary":
        """Look at a checkpoint, and read none of its tensors."""
        try:
            manifest = checkpoint.manifest()
        except (OSError, ValueError):
            manifest = {}
        return cls(
            num_steps=checkpoint.num_steps,
            time=str(manifest.get("time", "")),
            num_bytes=sum(file.stat().st_size for file in checkpoint.path.iterdir() if file.is_file()),
            mesh=_mesh(manifest),
            defect=checkpoint.defect(),
        )


def find_checkpoints(path: Path) -> list[Checkpoint]:
    """Return the checkpoints that a path means.

    Args:
        path: One checkpoint, or the folder in which a job keeps its checkpoints.

    Returns:
        The checkpoints, newest first, complete or not.

    Raises:
        CheckpointError: If there is none.
    """
    found = [Checkpoint(path)] if Checkpoint.is_name(path.name) and path.is_dir() else Checkpoint.list_in(path)
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint: name one, or the folder that a job saves into")
    return found


def choose_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint to take when one is wanted.

    Args:
        path: As for `find_checkpoints`.

    Returns:
        The newest complete one.

    Raises:
        CheckpointError: If none is complete.
    """
    (first, *_) = find_checkpoints(path)
    if first.path != path:
        return find_complete(path) or first
    if defect := first.defect():
        raise CheckpointError(f"{path} is incomplete: {defect}")
    return first


def find_faults(checkpoint: Checkpoint) -> Iterator[str]:
    """Read all of a checkpoint, one tensor after the other.

    Args:
        checkpoint: The checkpoint.

    Yields:
        What is wrong with it, with the name of the file.
    """
    if defect := checkpoint.defect():
        yield defect
        return
    try:
        saved = checkpoint.open()
    except CheckpointError as error:
        yield str(error)
        return
    for path, entry in saved.index.items():
        try:
            _read(saved, path, entry)
        except (CheckpointError, zipfile.BadZipFile, OSError, ValueError) as error:
            yield f"the tensor {path!r} in {', '.join(sorted({chunk[2] for chunk in entry['chunks']}))}: {error}"


def _read(saved: SavedState, path: str, entry: dict[str, Any]) -> None:
    for _, _, name, offset, length in entry["chunks"]:
        with (saved.folder / name).open("rb") as file:
            file.seek(offset)
            # torch writes a checksum for each tensor, and does not look at it when it reads.
            with zipfile.ZipFile(io.BytesIO(file.read(length))) as archive:
                if record := archive.testzip():
                    raise zipfile.BadZipFile(f"the bytes of {record} are not those that were written")
    outline = {"tensor": {"path": path, "dtype": entry["dtype"], "shape": entry["shape"]}}
    saved.fill(empty_tensors(outline))


def _mesh(manifest: dict[str, Any]) -> str:
    sizes = manifest.get("mesh")
    if not isinstance(sizes, dict):
        return ""
    divided = [f"{name}={size}" for name, size in sizes.items() if size != 1]
    return " ".join(divided) or "one process"
