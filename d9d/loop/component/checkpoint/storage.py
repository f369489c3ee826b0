"""Checkpoints on disk: saving, finding, opening, verifying and removing them."""

import dataclasses
import datetime as dt
import errno
import functools
import hashlib
import importlib.resources
import io
import json
import logging
import pickle
import platform
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.storage import StorageReader

import d9d
from d9d.loop.component.checkpoint.files import (
    CheckpointError,
    TensorReader,
    load_regions,
    load_tensors,
    make_staging_directory,
    open_regular_file,
    read_index,
    read_json,
    remove_at_once,
    require_plain_name,
    save_tensors,
    sync_folder,
    write_json,
)
from d9d.loop.component.checkpoint.sharded_state import split_across_ranks
from d9d.loop.component.checkpoint.state_dict import Region, TensorInfo, allocate_tensors, dtype_from_name, join_state
from d9d.loop.component.ranks import ALONE, Ranks
from d9d.loop.config import ConfigurationError, LoopConfig

logger = logging.getLogger(__name__)

FORMAT = 3
"""The format that is written: 2 has no results of evaluations."""
READABLE_FORMATS = (2, FORMAT)
READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, pickle.PickleError)
"""What reading files with any content may raise."""

_PREFIX = "step-"
_MANIFEST = "checkpoint.json"
_METADATA = "state.json"
_MANIFEST_FIELDS = {"format": int, "id": str, "num_steps": int, "files": dict, "settings": dict}
_ABSENT = "absent"
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO}
"""How the system reports that there is no file, or something else in its place."""
_NUM_DIFFERENCES_SHOWN = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedState:
    """State on disk that has been opened, so that each rank can load its part of it.

    Attributes:
        path: Where it is.
        metadata: The metadata of the whole state.
        reader: Reads its tensors.
        num_ranks: How many ranks saved it.
        ranks: The ranks that load it.
        remedy: What to do if it cannot be read, for errors.
    """

    path: Path
    metadata: Any
    reader: StorageReader
    num_ranks: int
    ranks: Ranks
    remedy: str

    def names(self) -> set[str]:
        """Return the top-level keys of the state."""
        return {name for name, _ in self.metadata["dict"]}

    def has(self, *keys: str) -> bool:
        """Return whether the state has a value under nested keys."""
        return self._find(keys) is not None

    def metadata_at(self, *keys: str) -> Any:
        """Return the metadata of the value under nested keys.

        Args:
            *keys: The keys, from the outermost to the innermost.

        Raises:
            CheckpointError: If there is none.
        """
        found = self._find(keys)
        if found is None:
            raise CheckpointError(f"{self.path} has no state {'/'.join(keys)!r}: it was saved by another kind of job")
        return found

    def weights(self) -> dict[str, tuple[str, TensorInfo]]:
        """Return the path of each tensor of the model, with its dtype and shape.

        Raises:
            CheckpointError: If the state has no model.
        """
        return {
            name: (value["tensor"]["path"], TensorInfo(dtype_from_name(value["tensor"]["dtype"]), tuple(shape)))
            for name, value in self.metadata_at("model")["dict"]
            if isinstance(value, dict) and (shape := value.get("tensor", {}).get("shape")) is not None
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load tensors in place; all ranks call this, each with its own.

        Args:
            tensors: The tensors to load into, by path.

        Raises:
            CheckpointError: On all ranks, if any of them cannot be read.
        """
        try:
            load_tensors(tensors, self.reader, self.ranks)
        except CheckpointException as error:  # any other error is of the communication between ranks
            raise _unreadable_error(self.path, error, self.remedy) from error

    def load_regions(self, regions: Mapping[str, Sequence[Region]]) -> None:
        """Load parts of tensors; all ranks call this, each with its own.

        Args:
            regions: The memory to load into, by the path of the tensor that it is a part of.

        Raises:
            CheckpointError: On all ranks, if any of them cannot be read.
        """
        try:
            load_regions(regions, self.reader, self.ranks)
        except CheckpointException as error:  # any other error is of the communication between ranks
            raise _unreadable_error(self.path, error, self.remedy) from error

    def _find(self, keys: tuple[str, ...]) -> Any:
        metadata = self.metadata
        for key in keys:
            metadata = dict(metadata["dict"]).get(key) if isinstance(metadata, dict) and "dict" in metadata else None
        return metadata


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder `step-N` with the state of a job after N steps.

    `checkpoint.json` is the manifest: the files that the folder must contain, what a job must share with this one to
    resume from it, and facts for people. `state.json` is the metadata of the state; its tensors are in further files.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def num_steps(self) -> int:
        """How many steps were complete when the state was saved."""
        return int(self.path.name.removeprefix(_PREFIX))

    @property
    def identity(self) -> str:
        """A name that no other checkpoint has."""
        return f"{self.path.name} ({self.manifest()['id']})"

    @staticmethod
    def is_name(name: str) -> bool:
        """Return whether a folder of this name is a checkpoint."""
        return name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isdecimal()

    @classmethod
    def list_in(cls, folder: Path) -> list[Self]:
        """List the checkpoints in a folder, complete or not.

        Args:
            folder: The folder in which a job keeps its checkpoints; it need not exist.

        Returns:
            The checkpoints, newest first.
        """
        found = [cls(path) for path in folder.glob(f"{_PREFIX}*") if cls.is_name(path.name) and path.is_dir()]
        return sorted(found, key=lambda checkpoint: checkpoint.num_steps, reverse=True)

    @classmethod
    def of_step(cls, folder: Path, num_steps: int) -> Self:
        """Return the checkpoint after a number of steps, which may not exist yet.

        Args:
            folder: The folder in which the job keeps its checkpoints.
            num_steps: How many steps are complete.
        """
        return cls(folder / f"{_PREFIX}{num_steps}")

    @classmethod
    def write(
        cls,
        folder: Path,
        num_steps: int,
        state: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        ranks: Ranks = ALONE,
        may_differ: Collection[str] = (),
        job_metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Save a checkpoint, which appears under its name when all of it is on disk.

        Args:
            folder: The folder in which the job keeps its checkpoints; the same for all ranks.
            num_steps: How many steps are complete.
            state: The state of this rank, as for `split_state`.
            settings: What a job must share with this one to resume from here, in JSON's types.
            ranks: The ranks of the job, all of which call this.
            may_differ: As for `split_across_ranks`.
            job_metadata: More facts about the job, in JSON's types.

        Returns:
            The checkpoint.

        Raises:
            StateError: On all ranks, if a checkpoint cannot hold the state.
            OSError: On all ranks, if rank 0 cannot write.
            CheckpointException: On all ranks, if any of them cannot write. It is not an `Exception`.
        """
        checkpoint = cls(folder / f"{_PREFIX}{num_steps}")
        tensors, metadata = split_across_ranks(state, ranks, may_differ)
        manifest = {
            "format": FORMAT,
            "id": secrets.token_hex(8),
            "num_steps": num_steps,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "num_ranks": ranks.num_ranks,
            "versions": {
                "d9d": d9d.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            **(job_metadata or {}),
            "settings": settings,
        }
        staging = ranks.run_on_rank_zero(functools.partial(make_staging_directory, checkpoint.path))
        try:
            save_tensors(staging, tensors, ranks)
            ranks.run_on_rank_zero(functools.partial(checkpoint._complete, staging, metadata, manifest))
        except BaseException:
            if ranks.is_main:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        return checkpoint

    def _complete(self, staging: Path, metadata: Any, manifest: dict[str, Any]) -> None:
        """Add the files that rank 0 writes, and move the folder to its name."""
        write_json(staging / _METADATA, metadata)
        # The index names what all ranks have written; files on another disk are not here.
        names = {chunk[2] for entry in read_index(staging).values() for chunk in entry["chunks"]}
        missing = sorted(name for name in names if not (staging / name).is_file())
        if missing:
            raise FileNotFoundError(
                f"rank 0 does not see {missing[0]}, which another rank has written: all ranks need a shared folder"
            )
        sizes = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
        write_json(staging / _MANIFEST, {**manifest, "files": sizes})
        sync_folder(staging)
        remove_at_once(self.path)
        staging.rename(self.path)
        sync_folder(self.path.parent)

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Returns:
            The content of `checkpoint.json`.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it does not contain a manifest.
        """
        manifest = read_json(self.path / _MANIFEST)
        if not isinstance(manifest, dict) or not all(
            isinstance(manifest.get(name), kind) for name, kind in _MANIFEST_FIELDS.items()
        ):
            raise ValueError(f"{self.path / _MANIFEST} is not the manifest of a checkpoint")
        return manifest

    def update_manifest(self, changes: Mapping[str, Any]) -> None:
        """Change entries of the manifest, so that there is always a complete one.

        Args:
            changes: The new values by name, in JSON's types.

        Raises:
            OSError: If it cannot be read or written; it is then as before.
            ValueError: As `manifest`.
        """
        manifest = {**self.manifest(), **changes, "format": FORMAT}
        staging = make_staging_directory(self.path)
        try:
            write_json(staging / _MANIFEST, manifest)
            (staging / _MANIFEST).rename(self.path / _MANIFEST)
            sync_folder(self.path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def problem(self) -> str | None:
        """Return why the checkpoint cannot be loaded, as far as names and sizes of its files show.

        Returns:
            The problem, or `None` if the checkpoint is complete.
        """
        if self.path.is_symlink():
            return "it is a symbolic link, which is not followed here: name the folder that it leads to"
        try:
            manifest = self.manifest()
        except (OSError, ValueError) as error:
            return f"its {_MANIFEST} cannot be read ({error})"
        if manifest["format"] not in READABLE_FORMATS:
            versions = manifest.get("versions")
            writer = versions.get("d9d") if isinstance(versions, dict) else None
            return (
                f"it has format {manifest['format']!r}, and this version of d9d reads formats "
                f"{' and '.join(map(str, READABLE_FORMATS))}: "
                f"use {f'd9d {writer}, which wrote it,' if writer else 'the d9d that wrote it'} or another folder"
            )
        if manifest["num_steps"] != self.num_steps:
            return f"it was saved after {manifest['num_steps']} steps and has been renamed since"
        problems = (_file_problem(self.path, name, size) for name, size in manifest["files"].items())
        return next(filter(None, problems), None)

    def access_error(self) -> OSError | None:
        """Return why the system does not let this process look at the checkpoint, which may be complete all the same.

        Returns:
            The error, or `None` if there is none; `problem` says whether the checkpoint is complete then.
        """
        try:
            for name in self.manifest()["files"]:
                (self.path / require_plain_name(name, f"its {_MANIFEST}")).lstat()
        except OSError as error:
            return error if _is_about_access(error) else None
        except ValueError:
            return None
        return None

    def is_of_newer_format(self) -> bool:
        """Return whether a newer version of d9d has written it, so that this version cannot tell if it is complete."""
        try:
            return bool(self.manifest()["format"] > FORMAT)
        except (OSError, ValueError):
            return False

    def open(self, ranks: Ranks = ALONE) -> SavedState:
        """Open the checkpoint, so that each rank can load its part of it.

        Args:
            ranks: The ranks that load it, all of which call this.

        Returns:
            The state of all ranks that saved it.

        Raises:
            CheckpointError: On all ranks, if its files cannot be read.
        """
        remedy = "remove it to resume from the checkpoint before it"

        def read() -> tuple[Any, dict[str, Any], int]:
            try:
                metadata, index = read_json(self.path / _METADATA), read_index(self.path)
                _require_consistent(metadata, index)
                return metadata, index, self.manifest()["num_ranks"]
            except READ_ERRORS as error:
                raise _unreadable_error(self.path, error, remedy) from error

        metadata, index, num_ranks = ranks.run_on_rank_zero(read)
        reader = TensorReader(self.path, index)
        return SavedState(
            path=self.path, metadata=metadata, reader=reader, num_ranks=num_ranks, ranks=ranks, remedy=remedy
        )

    def read(self, *names: str) -> dict[str, Any]:
        """Read the whole state, or parts of it, onto the CPU of this process.

        Args:
            *names: The top-level keys to read; by default all of them.

        Returns:
            The state under those keys.

        Raises:
            CheckpointError: If the files cannot be read.
        """
        saved = self.open()
        metadata = {"dict": [[key, value] for key, value in saved.metadata["dict"] if not names or key in names]}
        tensors = allocate_tensors(metadata)
        saved.load(tensors)
        state: dict[str, Any] = join_state(metadata, tensors)
        return state

    def verify(self) -> Iterator[str]:
        """Read all of the checkpoint, one tensor after another.

        Yields:
            Each problem, with the name of the file.
        """
        if problem := self.problem():
            yield problem
            return
        try:
            saved = self.open()
            index = read_index(self.path)
        except (CheckpointError, OSError, ValueError) as error:
            yield str(error)
            return
        for path, entry in index.items():
            try:
                for _, _, name, offset, length in entry["chunks"]:
                    _verify_checksums(self.path / require_plain_name(name, "its index"), offset, length)
                metadata = {"tensor": {"path": path, "dtype": entry["dtype"], "shape": entry["shape"]}}
                saved.load(allocate_tensors(metadata))
            except (CheckpointError, zipfile.BadZipFile, *READ_ERRORS) as error:
                names = sorted({str(chunk[2]) for chunk in entry["chunks"]})
                yield f"the tensor {path!r} in {', '.join(names)}: {error}"

    def remove(self) -> None:
        """Remove the checkpoint, if it exists, so that there is never a part of it."""
        remove_at_once(self.path)


def prepare_folder(folder: Path) -> None:
    """Make sure that checkpoints can be saved, before the model is built.

    Args:
        folder: The folder in which a job will keep its checkpoints; it is made if it does not exist.

    Raises:
        ConfigurationError: If it cannot be made or written to, or anything in it has the name of a checkpoint and is
            not a directory.
    """
    setting = f"checkpointing.folder={str(folder)!r}"
    if (folder / _MANIFEST).exists():
        raise ConfigurationError(
            f"{setting} is itself a checkpoint, and a run keeps its checkpoints in a folder: name another folder, and "
            f"start from this checkpoint with resume=ResumeConfig(checkpoint={str(folder)!r})"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{setting} cannot be written to ({error}): make it writable, or choose another folder"
        ) from error
    for path in folder.iterdir():
        if Checkpoint.is_name(path.name) and (path.is_symlink() or not path.is_dir()):
            raise ConfigurationError(f"{setting} contains {path.name}, which is not a directory: move it elsewhere")


def find_complete(folder: Path) -> Checkpoint | None:
    """Find the newest complete checkpoint, and warn about newer ones that are not.

    Args:
        folder: The folder in which a job keeps its checkpoints.

    Returns:
        The checkpoint, or `None` if there are no checkpoints.

    Raises:
        CheckpointError: If there are checkpoints and none is complete, or a newer one is of a newer version of d9d or
            may not be read.
    """
    problems: list[str] = []
    for checkpoint in Checkpoint.list_in(folder):
        problem = checkpoint.problem()
        if problem is None:
            for line in problems:
                logger.warning("%s; using %s instead", line, checkpoint.path)
            return checkpoint
        if checkpoint.is_of_newer_format():  # an older one would lose steps, and in time replace this one
            raise CheckpointError(f"cannot resume from {checkpoint.path}: {problem}")
        if checkpoint.access_error() is not None:  # so would one that this process may not look at
            raise CheckpointError(
                f"cannot resume from {checkpoint.path}: {problem}. It may be intact, so no older one is taken in its "
                "place: make it readable and run again, or move it elsewhere"
            )
        problems.append(f"{checkpoint.path} cannot be loaded: {problem}")
    if problems:
        raise CheckpointError(
            f"no checkpoint in {folder} can be loaded:\n  "
            + "\n  ".join(problems)
            + "\nRestore one of them, or remove them to start fresh."
        )
    return None


def find_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Compare the settings of a job with those of a checkpoint.

    Args:
        expected: The settings of this job, by name.
        found: The settings of the checkpoint.

    Returns:
        A line with both values for each of the first differences.
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


def describe_job(config: LoopConfig) -> dict[str, Any]:
    """Describe a job by its settings, and by the events that its loop triggers.

    Args:
        config: The settings.

    Returns:
        The mesh, all settings and their digest, and the digest of the catalogue of events, in JSON's types.
    """
    configuration = config.model_dump(mode="json")
    text = json.dumps(configuration, sort_keys=True).encode()
    index = importlib.resources.files("d9d.loop.event.catalogue") / "index.json"
    digests: str = json.loads(index.read_text(encoding="utf-8"))["digests"]
    return {
        "mesh": configuration["mesh"],
        "catalogue_digest": digests.partition(",")[0].removeprefix("catalogue "),
        "configuration_digest": hashlib.sha256(text).hexdigest()[:16],
        "configuration": configuration,
    }


def describe_cause(error: BaseException) -> str:
    """Describe why something could not be read or written; torch wraps one error for each rank that failed.

    Args:
        error: What was raised.
    """
    if not isinstance(error, CheckpointException):
        # Of a pickle that was refused, torch says how to execute it all the same.
        is_pickle = isinstance(error, pickle.PickleError)
        return type(error).__qualname__ if is_pickle else f"{type(error).__qualname__}: {error}"
    causes = [f"rank {rank}: {describe_cause(cause)}" for rank, (cause, _) in error.failures.items()]
    blind = [rank for rank, (cause, _) in error.failures.items() if isinstance(cause, FileNotFoundError)]
    if blind and 0 not in error.failures:
        causes.append(f"rank 0 sees this folder and rank {blind[0]} does not: all ranks need a shared folder")
    return "; ".join(causes)


def _file_problem(folder: Path, name: str, size: int) -> str | None:
    try:
        found = (folder / require_plain_name(name, f"its {_MANIFEST}")).lstat()
    except ValueError as error:
        return str(error)
    except OSError as error:
        return (
            f"its file {name} cannot be found ({error})" if _is_about_access(error) else f"its file {name} is missing"
        )
    if not stat.S_ISREG(found.st_mode):
        return f"its file {name} is not a regular file"
    return None if found.st_size == size else f"its file {name} has {found.st_size} bytes instead of {size}"


def _require_consistent(metadata: Any, index: Mapping[str, Any]) -> None:
    """Refuse metadata and an index that are not of one checkpoint."""
    with torch.device("meta"):  # nothing is allocated
        expected = allocate_tensors(metadata)
    if expected.keys() != index.keys():
        raise ValueError(f"{min(expected.keys() ^ index.keys())!r} is in one of two files only")
    for path, tensor in expected.items():
        if (dtype_from_name(index[path]["dtype"]), index[path]["shape"]) != (tensor.dtype, list(tensor.shape)):
            raise ValueError(f"{path!r} has a different dtype or shape in two files")


def choose_remedy(error: BaseException, remedy: str) -> str:
    """Say what to do about files that could not be read, which need not be the fault of the files.

    Args:
        error: What was raised.
        remedy: What to do if the files are damaged.
    """
    causes = _causes_of(error)
    if any(_is_lack_of_memory(cause) for cause in causes.values()):
        return "there is too little memory to load it, and it may be intact: free memory, or use more processes"
    if any(_is_about_access(cause) for cause in causes.values()):
        return "it may be intact: make its files readable on all machines, and run again"
    if 0 not in causes and any(isinstance(cause, FileNotFoundError) for cause in causes.values()):
        return "it may be intact: make its folder visible on all machines, and run again"
    return remedy


def _unreadable_error(path: Path, error: BaseException, remedy: str) -> BaseException:
    # torch wraps a Ctrl-C too.
    stop = next((cause for cause in _causes_of(error).values() if not isinstance(cause, Exception)), None)
    return stop or CheckpointError(f"{path} cannot be read ({describe_cause(error)}): {choose_remedy(error, remedy)}")


def _causes_of(error: BaseException) -> dict[int, BaseException]:
    """Return the error of each rank that failed; torch wraps them."""
    if not isinstance(error, CheckpointException):
        return {0: error}
    return {rank: cause for rank, (cause, _) in error.failures.items()}


def _is_about_access(error: BaseException) -> bool:
    """Return whether the system refuses or fails to read, whatever is in the files."""
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _NO_FILE


def _is_lack_of_memory(error: BaseException) -> bool:
    is_of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    # torch reports that the host has no memory in the text only.
    is_of_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return is_of_system or is_of_host or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _verify_checksums(path: Path, offset: int, length: int) -> None:
    """Verify the checksums that torch writes for each tensor and does not look at when it reads."""
    with open_regular_file(path) as file:
        file.seek(offset)
        with zipfile.ZipFile(io.BytesIO(file.read(length))) as archive:
            if record := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {record} does not match: the file is damaged")
