"""One checkpoint on disk: whole, or visibly not."""

import dataclasses
import importlib.metadata
import json
import os
import pickle
import platform
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from d9d.loop.component.state_tree import empty_tensors, join_state, split_state

FORMAT = 1
_MANIFEST = "checkpoint.json"
_OUTLINE = "state.json"
_MANIFEST_FIELDS = {"format": int, "id": str, "num_steps": int, "files": dict, "settings": dict}
_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError, pickle.PickleError, CheckpointException)
_PREFIX = "step-"
# Folders of this prefix are on their way in or out; they belong to no checkpoint and may be removed at any time.
_TRANSIENT_PREFIX = ".transient-"


class CheckpointError(RuntimeError):
    """A checkpoint that is incomplete, or that belongs to other settings."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder `step-N` that holds the state of a job after N steps.

    The tensors are written by `torch.distributed.checkpoint`; `state.json` is the outline of the state around them, and
    `checkpoint.json` says, for people and for completeness, what the folder must hold.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def num_steps(self) -> int:
        """How many steps were complete when the checkpoint was taken."""
        return int(self.path.name.removeprefix(_PREFIX))

    @staticmethod
    def is_name(name: str) -> bool:
        """Say whether a folder of this name is a checkpoint."""
        return name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isdecimal()

    @classmethod
    def list_in(cls, folder: Path) -> list[Self]:
        """List the checkpoints in a folder, complete or not.

        Args:
            folder: Where a job keeps its checkpoints; need not exist.

        Returns:
            The checkpoints, newest first.
        """
        found = [cls(path) for path in folder.glob(f"{_PREFIX}*") if cls.is_name(path.name) and path.is_dir()]
        return sorted(found, key=lambda checkpoint: checkpoint.num_steps, reverse=True)

    @classmethod
    def write(cls, folder: Path, num_steps: int, state: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Write a checkpoint, which appears under its name only when all of it is on disk.

        Args:
            folder: Where the job keeps its checkpoints.
            num_steps: How many steps are complete.
            state: The state, as `split_state` takes it.
            settings: What a job must share with this one to go on from here, in JSON's types.

        Returns:
            The checkpoint.
        """
        checkpoint = cls(folder / f"{_PREFIX}{num_steps}")
        partial = folder / f"{_TRANSIENT_PREFIX}{checkpoint.path.name}"
        tensors, outline = split_state(state)
        remove_transient(folder)
        partial.mkdir(parents=True)
        with warnings.catch_warnings():
            # One process saving alone is what is meant.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            save(tensors, checkpoint_id=partial, no_dist=True)
        _write_json(partial / _OUTLINE, outline)
        manifest = {
            "format": FORMAT,
            "id": secrets.token_hex(8),
            "num_steps": num_steps,
            "versions": {
                "d9d": _own_version(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "files": {path.name: path.stat().st_size for path in sorted(partial.iterdir())},
            "settings": settings,
        }
        _write_json(partial / _MANIFEST, manifest)
        _synchronize(partial)
        checkpoint.remove()
        partial.rename(checkpoint.path)
        _synchronize(folder)
        return checkpoint

    def defect(self) -> str | None:
        """Say what is wrong with the checkpoint.

        Returns:
            What is missing or damaged, or `None` if the checkpoint is complete.
        """
        try:
            manifest = self.manifest()
        except (OSError, ValueError) as error:
            return f"its {_MANIFEST} cannot be read ({error})"
        if manifest["format"] != FORMAT:
            return f"it has format {manifest['format']!r}, and this version of d9d reads format {FORMAT}"
        if manifest["num_steps"] != self.num_steps:
            return f"it was taken after {manifest['num_steps']} steps, and has been renamed or copied since"
        for name, size in manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"its file {name} is missing"
            if file.stat().st_size != size:
                return f"its file {name} has {file.stat().st_size} bytes instead of {size}"
        return None

    def manifest(self) -> dict[str, Any]:
        """Read what the folder must hold, and which settings it belongs to.

        Returns:
            The content of `checkpoint.json`.

        Raises:
            OSError: If there is no such file.
            ValueError: If it holds no manifest.
        """
        manifest = json.loads((self.path / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not all(
            isinstance(manifest.get(name), kind) for name, kind in _MANIFEST_FIELDS.items()
        ):
            raise ValueError(f"{self.path / _MANIFEST} holds no manifest")
        return manifest

    def read(self, *parts: str) -> dict[str, Any]:
        """Read state back onto the CPU.

        Args:
            *parts: Which of the top-level keys of the state to read; all of them if none is named.

        Returns:
            The state below those keys.

        Raises:
            CheckpointError: If what the files hold is damaged.
        """
        try:
            return self._read(parts)
        except _READ_ERRORS as error:
            raise CheckpointError(
                f"{self.path} has all of its files, and one of them is damaged ({type(error).__qualname__}): "
                "remove it to go back to the checkpoint before it"
            ) from error

    def _read(self, parts: tuple[str, ...]) -> dict[str, Any]:
        outline = json.loads((self.path / _OUTLINE).read_text(encoding="utf-8"))
        wanted = {"dict": [[key, value] for key, value in outline["dict"] if not parts or key in parts]}
        tensors = empty_tensors(wanted)
        if tensors:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                load(tensors, checkpoint_id=self.path, no_dist=True)
        state: dict[str, Any] = join_state(wanted, tensors)
        return state

    def remove(self) -> None:
        """Remove the checkpoint, if it is there, at one instant."""
        leaving = self.path.with_name(f"{_TRANSIENT_PREFIX}removed-{self.path.name}")
        if self.path.exists():
            self.path.rename(leaving)
            shutil.rmtree(leaving)


def newest_complete(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest checkpoint that is whole.

    Args:
        folder: Where a job keeps its checkpoints.

    Returns:
        The checkpoint, if there is one, and what is wrong with each newer one.
    """
    defects: list[str] = []
    for checkpoint in Checkpoint.list_in(folder):
        defect = checkpoint.defect()
        if defect is None:
            return checkpoint, defects
        defects.append(f"{checkpoint.path} is incomplete: {defect}")
    return None, defects


def remove_transient(folder: Path) -> None:
    """Remove what killed processes left on its way in or out.

    Args:
        folder: Where a job keeps its checkpoints.
    """
    for leftover in folder.glob(f"{_TRANSIENT_PREFIX}*"):
        shutil.rmtree(leftover)


def _own_version() -> str:
    try:
        return importlib.metadata.version("d9d")
    except importlib.metadata.PackageNotFoundError:  # used from a source tree
        return "unknown"


def _write_json(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _synchronize(folder: Path) -> None:
    """Have the names in a folder on disk, not only the files that they name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
