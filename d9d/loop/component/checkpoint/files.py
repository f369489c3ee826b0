"""The files of a checkpoint: JSON and tensors, written durably, and read without trusting who wrote them.

A checkpoint folder may come from someone else. Inside of it, no file is read or written through a link, no name leads
out of it, and nothing waits for a pipe. Nothing on disk is a pickle that would be executed.
"""

import contextlib
import dataclasses
import datetime as dt
import errno
import fcntl
import json
import logging
import os
import platform
import secrets
import shutil
import stat
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, WriteResult

from d9d.loop.component.checkpoint.state_dict import Region, dtype_from_name, dtype_name
from d9d.loop.component.ranks import Ranks

logger = logging.getLogger(__name__)

_INDEX = "tensors.json"
_STAGING_PREFIX = ".staging-"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be saved, found or loaded, or that does not fit the job."""


def open_regular_file(path: Path) -> BinaryIO:
    """Open a file for reading, unless it is a link, a pipe or anything else than a regular file.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file.

    Raises:
        OSError: As `open_regular_file`.
        ValueError: If it does not contain JSON.
    """
    with open_regular_file(path) as file:
        try:
            return json.load(file)
        except RecursionError as error:
            raise ValueError(f"{path} is nested too deeply") from error


def write_json(path: Path, content: Any) -> None:
    """Write a new JSON file, which is on disk when this returns.

    Args:
        path: The file.
        content: What JSON can hold.

    Raises:
        OSError: If it exists, or cannot be written.
    """
    with path.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write the names of the files in a folder to disk, as `os.fsync` does with their contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_plain_name(name: str, source: str) -> str:
    """Return a file name that leads to no other folder.

    Args:
        name: The name, which comes from a file.
        source: The name of that file.

    Raises:
        ValueError: If it is not the name of a file in the same folder.
    """
    if name in {"", ".", ".."} or Path(name).name != name:
        raise ValueError(f"{source} names the file {name!r}, which is not in its folder")
    return name


def make_staging_directory(path: Path) -> Path:
    """Make a directory for files that will be moved to a path when they are complete.

    Staging directories that killed jobs left are removed first.

    Args:
        path: Where the directory will be moved to.

    Returns:
        The directory, with a name that no process left behind can know.

    Raises:
        OSError: If it cannot be made. The parent of the path is not created: if it has vanished, so has a disk, and
            nobody would find what is written in its place.
    """
    remove_staging_directories(path.parent)
    staging = path.with_name(f"{_STAGING_PREFIX}{path.name}-{secrets.token_hex(4)}")
    staging.mkdir()
    return staging


def remove_staging_directories(folder: Path) -> None:
    """Remove the staging directories in a folder.

    Args:
        folder: The folder in which a job keeps its checkpoints.
    """
    for path in folder.glob(f"{_STAGING_PREFIX}*"):
        _remove_without_following(path)


def remove_at_once(path: Path) -> None:
    """Remove a directory so that there is never a part of it under its name.

    Args:
        path: The directory; it need not exist. A link is removed, not followed.
    """
    doomed = path.with_name(f"{_STAGING_PREFIX}removed-{path.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
        _remove_without_following(doomed)


def _remove_without_following(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_index(folder: Path) -> dict[str, Any]:
    """Read which tensors a folder holds, and where in which file each chunk of them is.

    Args:
        folder: The folder that `save_tensors` wrote to.

    Returns:
        For each tensor by path its `dtype`, its `shape`, and its `chunks`: offsets in the tensor, sizes, file name,
        offset in the file, and number of bytes.

    Raises:
        OSError: If the index cannot be read.
        ValueError: If it is not JSON.
    """
    index: dict[str, Any] = read_json(folder / _INDEX)
    return index


def save_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Save the tensors of all ranks.

    Args:
        folder: A new directory.
        tensors: The tensors of this rank by path, and its shards of each `DTensor`. A plain tensor is on one rank only.
        ranks: The ranks of the job, all of which call this.

    Raises:
        CheckpointException: On all ranks, if any of them fails. It is not an `Exception`.
    """
    _ignore_single_process_warning()
    save(
        dict(tensors),
        storage_writer=_Writer(folder, is_on_host=all(tensor.is_cpu for tensor in tensors.values())),
        planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        process_group=ranks.group,
        no_dist=ranks.is_alone,
    )


def load_tensors(tensors: Mapping[str, torch.Tensor], reader: StorageReader, ranks: Ranks) -> None:
    """Load tensors, whatever mesh they were saved on.

    Args:
        tensors: The tensors to load into, by path.
        reader: Reads them.
        ranks: The ranks of the job, all of which call this, each with its own tensors.

    Raises:
        CheckpointException: On all ranks, if any of them fails. It is not an `Exception`.
    """
    _ignore_single_process_warning()
    load(
        dict(tensors),
        storage_reader=reader,
        planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        process_group=ranks.group,
        no_dist=ranks.is_alone,
    )


def load_regions(regions: Mapping[str, Sequence[Region]], reader: StorageReader, ranks: Ranks) -> None:
    """Load parts of tensors, whatever mesh they were saved on; values are converted to the dtype of each part.

    Args:
        regions: The memory to load into, by the path of the tensor that it is a part of.
        reader: Reads them.
        ranks: The ranks of the job, all of which call this, each with its own parts.

    Raises:
        CheckpointException: On all ranks, if any of them fails. It is not an `Exception`.
    """
    _ignore_single_process_warning()
    load({}, storage_reader=reader, planner=_Planner(regions), process_group=ranks.group, no_dist=ranks.is_alone)


class _Planner(DefaultLoadPlanner):
    """Reads what parts of tensors need; torch's own planner takes whole tensors, each under one name."""

    def __init__(self, regions: Mapping[str, Sequence[Region]]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._regions = regions

    def create_local_plan(self) -> LoadPlan:
        if self.metadata is None:
            raise RuntimeError("torch has created a plan before it has read the metadata")
        items: list[ReadItem] = []
        for path, regions in self._regions.items():
            stored = self.metadata.state_dict_metadata[path]
            for number, region in enumerate(regions):
                chunk = ChunkStorageMetadata(torch.Size(region.offsets), region.tensor.shape)
                items += [
                    dataclasses.replace(item, dest_index=MetadataIndex(path, region.offsets, number))
                    for item in create_read_items_for_chunk_list(path, stored, [chunk])  # type: ignore[arg-type] # all are tensors
                ]
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Return the memory that an item is read into."""
        index = read_item.dest_index
        region = self._regions[index.fqn][index.index or 0]
        target: torch.Tensor = self.transform_tensor(read_item, region.tensor)
        return target


class TensorReader(FileSystemReader):
    """Reads tensors by the JSON index of `save_tensors`; torch's own reader would unpickle one.

    Args:
        folder: The folder that `save_tensors` wrote to.
        index: What `read_index` returned.
    """

    def __init__(self, folder: Path, index: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self.fs = _RegularFiles()
        self._index = index

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:  # noqa: D102 -- inherited
        tensors: dict[str, Any] = {}
        locations = {}
        for path, entry in self._index.items():
            chunks = []
            for offsets, sizes, name, offset, length in entry["chunks"]:
                chunks.append(ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes)))
                locations[MetadataIndex(path, offsets)] = _Location(require_plain_name(name, _INDEX), offset, length)
            tensors[path] = TensorStorageMetadata(
                properties=TensorProperties(dtype=dtype_from_name(entry["dtype"])),
                size=torch.Size(entry["shape"]),
                chunks=chunks,
            )
        return Metadata(state_dict_metadata=tensors, storage_data=locations)


class _Writer(FileSystemWriter):
    """Writes an index in JSON; torch's own writer would pickle it.

    Args:
        folder: A new directory.
        is_on_host: Whether all tensors are. torch's writer copies those on a device while it writes others, and
            synchronises the current stream for every 10 MB, even for tensors that are on the host already.
    """

    def __init__(self, folder: Path, *, is_on_host: bool) -> None:
        super().__init__(folder)
        if is_on_host:
            self.per_thread_copy_ahead = 0
        self.fs = _RegularFiles()

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        locations = {result.index: result.storage_data for results_of_rank in results for result in results_of_rank}
        index: dict[str, Any] = {}
        for path, tensor in metadata.state_dict_metadata.items():
            if isinstance(tensor, TensorStorageMetadata):  # as all of them are
                chunks: list[Any] = []
                for chunk in tensor.chunks:
                    location = locations[MetadataIndex(path, chunk.offsets)]
                    place = [location.relative_path, location.offset, location.length]
                    chunks.append([list(chunk.offsets), list(chunk.sizes), *place])
                dtype = dtype_name(tensor.properties.dtype)
                index[path] = {"dtype": dtype, "shape": list(tensor.size), "chunks": chunks}
        write_json(Path(self.path) / _INDEX, index)


@dataclasses.dataclass(frozen=True)
class _Location:
    """Where a chunk is, with the attributes that torch's reader needs."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class _RegularFiles(FileSystem):
    """Reads regular files alone, writes new files alone, and makes no directory in place of one that has vanished."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with open_regular_file(Path(path)) if mode == "rb" else Path(path).open(mode.replace("w", "x")) as stream:
            yield stream

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Leave the file system as it is."""


def _ignore_single_process_warning() -> None:
    # For good: the list of filters belongs to all threads, so a save in the background could not restore it.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


# Errors of file systems that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


_locks_of_this_process: weakref.WeakValueDictionary[Path, "FolderLock"] = weakref.WeakValueDictionary()


class FolderLock:
    """Locks a folder for one run, for as long as the process that holds the lock lives.

    It is a POSIX lock on the file `.lock`: the kernel releases it when the process ends, a network file system when it
    has lost the machine, and forked processes do not inherit it. The content of the file only names the holder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / ".lock"
        # Not a file object: a loop that fails keeps its lock until the process ends, since a save may still be running.
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the folder.

        Raises:
            CheckpointError: If another run has locked it, with its machine, process and start, or the file `.lock`
                cannot be opened or is not a regular file.
        """
        # The kernel does not keep two runs of one process apart.
        if _locks_of_this_process.get(self._folder.resolve(), self) is not self:
            raise CheckpointError(
                f"another run of this process uses the checkpoints in {self._folder}, and each would overwrite those "
                "of the other: end it first, or choose another folder"
            )
        while self._descriptor is None:
            descriptor = self._open()
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 1000)
                os.close(descriptor)
                if error.errno not in _NO_LOCKS:
                    raise self._locked_error(holder) from error
                logger.warning(
                    "%s is on a file system without locks (%s): do not run a second job with this folder",
                    self._folder,
                    error,
                )
                _locks_of_this_process[self._folder.resolve()] = self
                return
            # The previous holder may have removed the file after it was opened here.
            if self._is_at_its_path(descriptor):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        _locks_of_this_process[self._folder.resolve()] = self
        started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        content = json.dumps({"host": platform.node(), "pid": os.getpid(), "started": started}).encode()
        with contextlib.suppress(OSError):  # on a full disk the lock holds without naming its holder
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, content)

    def release(self) -> None:
        """Unlock the folder, if it is locked."""
        if _locks_of_this_process.get(self._folder.resolve()) is self:
            del _locks_of_this_process[self._folder.resolve()]
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):  # the file alone locks nothing
            self._path.unlink()
        os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._foreign_file_error("a symbolic link") from error
            raise CheckpointError(
                f"checkpointing.folder={str(self._folder)!r} cannot be locked ({error}): fix this and run again"
            ) from error
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:  # a hard link would be a file that somebody else uses
            os.close(descriptor)
            raise self._foreign_file_error("a hard link" if stat.S_ISREG(info.st_mode) else "not a regular file")
        return descriptor

    def _is_at_its_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _foreign_file_error(self, kind: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is {kind}, so it is not the lock file of a d9d job: remove it and run again"
        )

    def _locked_error(self, content: bytes) -> CheckpointError:
        try:
            holder = json.loads(content)
            name = f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
        except (ValueError, LookupError, TypeError):
            name = "unknown process"
        return CheckpointError(
            f"checkpointing.folder={str(self._folder)!r} is in use by another job ({name}): wait for it, stop it, or "
            "choose another folder"
        )
