"""Tensors on disk, written and read by `torch.distributed.checkpoint`."""

import dataclasses
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, WriteResult

from d9d.loop.component.checkpoint.files import CheckpointError, write_json
from d9d.loop.component.checkpoint.state_dict import dtype_of, empty_tensors
from d9d.loop.component.ranks import Ranks, or_checkpoint_exception

INDEX = "tensors.json"


def read_index(folder: Path) -> dict[str, Any]:
    """Read which tensors there are, and where in which file each part of them lies.

    Args:
        folder: What `save_tensors` wrote to.

    Returns:
        For each name the `dtype`, the `shape` of the whole, and `chunks`: their offsets in it and their sizes, then
        their file, where in it they begin, and how many bytes they have.
    """
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return index


def save_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Write the tensors of all ranks.

    Args:
        folder: Is there, and empty.
        tensors: What this rank holds, by name: all of a tensor, or its part of a `DTensor`. No name has a plain tensor
            on two ranks.
        ranks: Who writes.

    Raises:
        CheckpointException: On all ranks, if any of them fails. It is no `Exception`.
    """
    _allow_one_process()
    save(
        dict(tensors),
        storage_writer=_Writer(folder),
        planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        process_group=ranks.group,
        no_dist=ranks.is_alone,
    )


def load_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], index: Mapping[str, Any], ranks: Ranks) -> None:
    """Fill tensors, each rank its own or its part of them, from whatever parts they were saved in.

    Args:
        folder: What `save_tensors` wrote to.
        tensors: Which to read, by name, and where to.
        index: What `read_index` returned.
        ranks: Who reads.

    Raises:
        CheckpointException: On all ranks, if any of them fails. It is no `Exception`.
    """
    fill_tensors(tensors, _Reader(folder, index), ranks)


def fill_tensors(tensors: Mapping[str, torch.Tensor], reader: StorageReader, ranks: Ranks) -> None:
    """Fill tensors from wherever a reader finds them.

    Args:
        tensors: Which to read, by name, and where to.
        reader: Reads them.
        ranks: Who reads.

    Raises:
        CheckpointException: On all ranks, if any of them fails. It is no `Exception`.
    """
    _allow_one_process()
    load(
        dict(tensors),
        storage_reader=reader,
        planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        process_group=ranks.group,
        no_dist=ranks.is_alone,
    )


def _allow_one_process() -> None:
    """Have torch take one process that saves alone for what is meant."""
    # For good: the list of filters belongs to all threads, and a save beside the loop could not put the old one back.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class _PresentFolder(FileSystem):
    """Makes no folder: one that has vanished is an error, and not to be made anew somewhere else."""

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Leave things as they are."""


class _Writer(FileSystemWriter):
    """Writes an index in JSON where torch would write a pickle."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fs = _PresentFolder()

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {result.index: result.storage_data for results_of_rank in results for result in results_of_rank}
        index = {
            name: {
                "dtype": str(described.properties.dtype).removeprefix("torch."),
                "shape": list(described.size),
                "chunks": [_entry(chunk, places[MetadataIndex(name, chunk.offsets)]) for chunk in described.chunks],
            }
            for name, described in metadata.state_dict_metadata.items()
            if isinstance(described, TensorStorageMetadata)  # as all are
        }
        write_json(Path(self.path) / INDEX, index)


def _entry(chunk: ChunkStorageMetadata, place: Any) -> list[Any]:
    return [list(chunk.offsets), list(chunk.sizes), place.relative_path, place.offset, place.length]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a chunk lies, with the attributes that torch's reader asks for."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class _Reader(FileSystemReader):
    """Takes an index that has been read, where torch would read a pickle."""

    def __init__(self, folder: Path, index: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        described: dict[str, Any] = {}
        places = {}
        for name, entry in self._index.items():
            chunks = []
            for offsets, sizes, file, offset, length in entry["chunks"]:
                if Path(file).name != file:
                    raise ValueError(f"{INDEX} names the file {file!r}, which is not in its folder")
                chunks.append(ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes)))
                places[MetadataIndex(name, offsets)] = _Place(file, offset, length)
            properties = TensorProperties(dtype=dtype_of(entry["dtype"]))
            described[name] = TensorStorageMetadata(
                properties=properties, size=torch.Size(entry["shape"]), chunks=chunks
            )
        return Metadata(state_dict_metadata=described, storage_data=places)


READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, pickle.PickleError)
"""What reading damaged files raises."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedState:
    """What is saved, and where to read it.

    Attributes:
        folder: The checkpoint.
        outline: The outline of the state of all ranks, as `split_state` makes it.
        index: Where its tensors lie.
        num_ranks: How many ranks saved it.
        ranks: Those that read it.
    """

    folder: Path
    outline: Any
    index: Mapping[str, Any]
    num_ranks: int
    ranks: Ranks

    def names(self) -> set[str]:
        """Return the names of all parts."""
        return {name for name, _ in self.outline["dict"]}

    def has(self, *path: str) -> bool:
        """Say whether anything lies at a path."""
        return self._find(path) is not None

    def outline_at(self, *path: str) -> Any:
        """Return the outline of what lies at a path.

        Args:
            *path: The keys that lead there.

        Returns:
            The outline.

        Raises:
            CheckpointError: If nothing lies there.
        """
        found = self._find(path)
        if found is None:
            raise CheckpointError(
                f"{self.folder} holds nothing at {'/'.join(path)!r}: it belongs to another kind of job"
            )
        return found

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Read tensors; all ranks call this, each with those that it needs.

        Args:
            tensors: Where to read to, by path.

        Raises:
            CheckpointError: On all ranks, if what the files hold is damaged.
        """
        try:
            load_tensors(self.folder, tensors, self.index, self.ranks)
        except or_checkpoint_exception(*READ_ERRORS) as error:
            raise damage_error(self.folder, error) from error

    def _find(self, path: tuple[str, ...]) -> Any:
        outline = self.outline
        for key in path:
            outline = dict(outline["dict"]).get(key) if isinstance(outline, dict) and "dict" in outline else None
        return outline


def require_consistent(outline: Any, index: Mapping[str, Any]) -> None:
    """Refuse texts that cannot be of one checkpoint.

    Args:
        outline: The outline of a state.
        index: Where its tensors lie.

    Raises:
        ValueError: If they differ in a tensor.
        TypeError: If a tensor has no number format.
    """
    with torch.device("meta"):  # nothing is allocated
        expected = empty_tensors(outline)
    if expected.keys() != index.keys():
        raise ValueError(f"{min(expected.keys() ^ index.keys())!r} is in one of two files alone")
    for path, tensor in expected.items():
        if (dtype_of(index[path]["dtype"]), index[path]["shape"]) != (tensor.dtype, list(tensor.shape)):
            raise ValueError(f"{path!r} has another type or shape in one file than in the other")


def damage_error(folder: Path, error: BaseException) -> CheckpointError:
    """Return what to say of a complete checkpoint that cannot be read.

    Args:
        folder: The checkpoint.
        error: What reading it raised.

    Returns:
        The error.
    """
    return CheckpointError(
        f"{folder} has all of its files, and one of them is damaged ({type(error).__qualname__}): "
        "remove it to go back to the checkpoint before it"
    )
