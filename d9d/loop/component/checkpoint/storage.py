"""Checkpoints on disk: writing one atomically, finding, verifying, describing and removing them."""

import dataclasses
import datetime as dt
import functools
import hashlib
import importlib.resources
import io
import json
import platform
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch

import d9d
from d9d.loop.component.checkpoint.dcp import (
    READ_ERRORS,
    SavedState,
    damage_error,
    read_index,
    require_consistent,
    save_tensors,
)
from d9d.loop.component.checkpoint.files import (
    CheckpointError,
    logger,
    make_staging_directory,
    remove_at_once,
    synchronize_folder,
    write_json,
)
from d9d.loop.component.checkpoint.sharded_state import unite
from d9d.loop.component.checkpoint.state_dict import empty_tensors, join_state
from d9d.loop.component.ranks import ALONE, Ranks
from d9d.loop.config import ConfigurationError, LoopConfig

_ABSENT = "absent"
_NUM_DIFFERENCES_SHOWN = 10


def require_same(expected: Mapping[str, Any], found: Mapping[str, Any], path: Path, *, remedy: str) -> None:
    """Refuse a checkpoint that belongs to other settings.

    Args:
        expected: The settings of this job.
        found: The settings of the checkpoint.
        path: The checkpoint.
        remedy: What to do about differences.

    Raises:
        CheckpointError: If any of them differ, with both values of each.
    """
    differences = find_differences(expected, found)
    if differences:
        raise CheckpointError(
            f"{path} belongs to a job of other settings:\n  " + "\n  ".join(differences) + f"\n{remedy}"
        )


def find_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say what differs.

    Args:
        expected: What this job has, by name.
        found: What the checkpoint has.

    Returns:
        A line for each of the first differences, with both values.
    """
    differences = [
        f"{name} is {expected.get(name, _ABSENT)!r} here and {found.get(name, _ABSENT)!r} in the checkpoint"
        for name in dict.fromkeys([*expected, *found])
        if expected.get(name, _ABSENT) != found.get(name, _ABSENT)
    ]
    shown = differences[:_NUM_DIFFERENCES_SHOWN]
    if len(differences) > len(shown):
        shown.append(f"… and {len(differences) - len(shown)} more")
    return shown


_CATALOGUE = "d9d.loop.event.catalogue"
_NUM_DIGITS = 16


def describe_job(config: LoopConfig) -> dict[str, Any]:
    """Describe a job by its settings, and by the events that its loop triggers.

    Args:
        config: The settings.

    Returns:
        The mesh, all settings and their digest, and that of the catalogue of events, in JSON's types.
    """
    configuration = config.model_dump(mode="json")
    text = json.dumps(configuration, sort_keys=True).encode()
    return {
        "mesh": configuration["mesh"],
        "catalogue_digest": _catalogue_digest(),
        "configuration_digest": hashlib.sha256(text).hexdigest()[:_NUM_DIGITS],
        "configuration": configuration,
    }


def describe_software() -> dict[str, str]:
    """Return the versions of what runs the job."""
    return {"d9d": d9d.__version__, "torch": torch.__version__, "python": platform.python_version()}


def _catalogue_digest() -> str:
    """Return the digest that the compiler of the catalogue has left in its index."""
    index = importlib.resources.files(_CATALOGUE) / "index.json"
    digests: str = json.loads(index.read_text(encoding="utf-8"))["digests"]
    return digests.partition(",")[0].removeprefix("catalogue ")


FORMAT = 2
_MANIFEST = "checkpoint.json"
_OUTLINE = "state.json"
_MANIFEST_FIELDS = {"format": int, "id": str, "num_steps": int, "files": dict, "settings": dict}
_PREFIX = "step-"


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
    def write(
        cls,
        folder: Path,
        num_steps: int,
        state: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        ranks: Ranks = ALONE,
        differing: Collection[str] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> Self:
        """Write a checkpoint, which appears under its name only when all of it is on disk.

        Args:
            folder: Where the job keeps its checkpoints; all ranks see the same folder.
            num_steps: How many steps are complete.
            state: The state of this rank, as `split_state` takes it.
            settings: What a job must share with this one to go on from here, in JSON's types.
            ranks: The processes of the job, all of which write.
            differing: As for `unite`.
            notes: What people may want to know besides, in JSON's types.

        Returns:
            The checkpoint.

        Raises:
            StateError: On all ranks, if the state cannot be kept.
            OSError: On all ranks, if the main one cannot write.
            CheckpointException: On all ranks, if any of them cannot write. It is no `Exception`.
        """
        checkpoint = cls(folder / f"{_PREFIX}{num_steps}")
        tensors, outline = unite(state, ranks, differing)
        manifest = {
            "format": FORMAT,
            "id": secrets.token_hex(8),
            "num_steps": num_steps,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "num_ranks": ranks.num_ranks,
            "versions": describe_software(),
            **(notes or {}),
            "settings": settings,
        }
        partial = ranks.run_on_rank_zero(functools.partial(make_staging_directory, checkpoint.path))
        try:
            save_tensors(partial, tensors, ranks)
            ranks.run_on_rank_zero(lambda: checkpoint._complete(partial, outline, manifest))
        except BaseException:
            if ranks.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        return checkpoint

    def _complete(self, partial: Path, outline: Any, manifest: dict[str, Any]) -> None:
        """Write what there is once, and have all of it appear under its name."""
        write_json(partial / _OUTLINE, outline)
        # torch has said what the ranks wrote; one that writes to a disk of its own is found out here.
        written = {chunk[2] for entry in read_index(partial).values() for chunk in entry["chunks"]}
        missing = sorted(name for name in written if not (partial / name).is_file())
        if missing:
            raise FileNotFoundError(
                f"{missing[0]}, which another process has written, cannot be seen here: all processes need one folder"
            )
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        write_json(partial / _MANIFEST, {**manifest, "files": sizes})
        synchronize_folder(partial)
        self.remove()
        partial.rename(self.path)
        synchronize_folder(self.path.parent)

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
            writer = manifest.get("versions", {}).get("d9d")
            return (
                f"it has format {manifest['format']!r}, and this version of d9d reads format {FORMAT}: go on with the "
                f"version that wrote it, {writer}"
            )
        if manifest["num_steps"] != self.num_steps:
            return f"it was taken after {manifest['num_steps']} steps, and has been renamed or copied since"
        for name, size in manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"its file {name} is missing"
            if file.stat().st_size != size:
                return f"its file {name} has {file.stat().st_size} bytes instead of {size}"
        return None

    def is_of_newer_format(self) -> bool:
        """Say whether a newer version of d9d has written it, whose checkpoints this one cannot judge."""
        try:
            return bool(self.manifest()["format"] > FORMAT)
        except (OSError, ValueError):
            return False

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
        """Read state back onto the CPU, all of it into this process.

        Args:
            *parts: Which of the top-level keys of the state to read; all of them if none is named.

        Returns:
            The state below those keys.

        Raises:
            CheckpointError: If what the files hold is damaged.
        """
        saved = self.open()
        outline = {"dict": [[key, value] for key, value in saved.outline["dict"] if not parts or key in parts]}
        tensors = empty_tensors(outline)
        saved.fill(tensors)
        state: dict[str, Any] = join_state(outline, tensors)
        return state

    def open(self, ranks: Ranks = ALONE) -> SavedState:
        """Read what there is, for each rank to read its part of it.

        Args:
            ranks: The processes that read, all of which call this.

        Returns:
            The state of all ranks.

        Raises:
            CheckpointError: On all ranks, if what the files hold is damaged.
        """

        def read_texts() -> tuple[Any, dict[str, Any], int]:
            try:
                outline, index = json.loads((self.path / _OUTLINE).read_text(encoding="utf-8")), read_index(self.path)
                require_consistent(outline, index)
                return outline, index, self.manifest()["num_ranks"]
            except READ_ERRORS as error:
                raise damage_error(self.path, error) from error

        outline, index, num_ranks = ranks.run_on_rank_zero(read_texts)
        return SavedState(folder=self.path, outline=outline, index=index, num_ranks=num_ranks, ranks=ranks)

    def remove(self) -> None:
        """Remove the checkpoint, if it is there, at one instant."""
        remove_at_once(self.path)


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
