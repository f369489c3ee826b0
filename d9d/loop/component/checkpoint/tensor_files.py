"""The tensors of a checkpoint: written by all ranks together, and found again through an index in JSON.

`torch.distributed.checkpoint` would pickle its index; reading a pickle may execute anything.
"""

import dataclasses
import os
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

from d9d.loop.component.checkpoint.durable_file import write_json
from d9d.loop.component.checkpoint.state_tree import dtype_of
from d9d.loop.component.checkpoint.tensor_index import INDEX
from d9d.loop.component.ranks import Ranks


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
