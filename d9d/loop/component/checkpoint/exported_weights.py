"""Weights in files of safetensors, with an index, as Hugging Face lays them out."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from d9d.loop.component.checkpoint.safetensors_file import INDEX, StoredTensor, read_safetensors
from d9d.loop.component.checkpoint.saved_state import READ_ERRORS, CheckpointError
from d9d.loop.component.checkpoint.tensor_files import fill_tensors
from d9d.loop.component.ranks import Ranks

_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class ExportedWeights:
    """Files of safetensors that hold the weights of one model.

    Attributes:
        path: One file, or the folder of several.
        tensors: The weights, by name.
        identity: Differs from that of any other weights.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    identity: str

    @staticmethod
    def is_at(path: Path) -> bool:
        """Say whether a path means such files: one of them, or a folder that holds any."""
        return path.suffix == _SUFFIX if path.is_file() else any(path.glob(f"*{_SUFFIX}"))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read which weights there are, and no weight.

        Args:
            path: One file; or a folder, of which the index is believed, or else all files are taken.

        Returns:
            The weights.

        Raises:
            CheckpointError: If the files are damaged or one is missing, with its name.
        """
        try:
            return cls._open(path)
        except READ_ERRORS as error:
            raise CheckpointError(
                f"{path} holds weights that cannot be read ({error}): export or download them again"
            ) from error

    def describe(self) -> dict[str, Any]:
        """Return the outline of the weights, as `split_state` makes that of a model's state."""
        return {"dict": [[name, _outline(name, tensor)] for name, tensor in self.tensors.items()]}

    def fill(self, rooms: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
        """Read weights; of those that are divided, each rank reads its part.

        Args:
            rooms: Where to read to, by the path that `describe` has given the weight.
            ranks: Those that read, all of which call this.

        Raises:
            CheckpointError: On all ranks, if any cannot read.
        """
        tensors = {_path_of(name): tensor for name, tensor in self.tensors.items()}
        try:
            fill_tensors(rooms, _Reader(self.path, tensors), ranks)
        except (*READ_ERRORS, CheckpointException) as error:  # torch's is no Exception
            raise CheckpointError(
                f"{self.path} holds weights that cannot be read ({type(error).__qualname__}): export or download them "
                "again"
            ) from error

    @classmethod
    def _open(cls, path: Path) -> Self:
        files = [path] if path.is_file() else _files_in(path)
        tensors: dict[str, StoredTensor] = {}
        digest = hashlib.sha256()
        for file in files:
            found, header = read_safetensors(file)
            twice = found.keys() & tensors.keys()
            if twice:
                raise ValueError(f"{min(twice)!r} is in two of its files")
            tensors |= found
            # Two models may have one header; that the numbers are others shows in when they were written.
            digest.update(header + str(file.stat().st_mtime_ns).encode())
        return cls(path, tensors, f"{path.name} ({digest.hexdigest()[:16]})")


def _files_in(folder: Path) -> list[Path]:
    if not (folder / INDEX).exists():
        return sorted(folder.glob(f"*{_SUFFIX}"))
    names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{INDEX} names the file {outside[0]!r}, which is not in its folder")
    return [folder / name for name in sorted(names)]


def _path_of(name: str) -> str:
    return f"model/{name}"


def _outline(name: str, tensor: StoredTensor) -> dict[str, Any]:
    dtype = str(tensor.description.dtype).removeprefix("torch.")
    return {"tensor": {"path": _path_of(name), "dtype": dtype, "shape": list(tensor.description.shape)}}


class _Reader(FileSystemReader):
    """Has `torch.distributed.checkpoint` read tensors that lie in files as they are, each in one piece."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        super().__init__(path)
        self._tensors = tensors

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        described: dict[str, Any] = {}
        for path, tensor in self._tensors.items():
            size = torch.Size(tensor.description.shape)
            described[path] = TensorStorageMetadata(
                properties=TensorProperties(dtype=tensor.description.dtype),
                size=size,
                chunks=[ChunkStorageMetadata(offsets=torch.Size([0] * len(size)), sizes=size)],
            )
        places = {MetadataIndex(path, [0] * len(item.size)): None for path, item in described.items()}
        return Metadata(state_dict_metadata=described, storage_data=places)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            whole = self._tensors[item.storage_index.fqn].map()
            part = whole[
                tuple(slice(at, at + size) for at, size in zip(item.storage_offsets, item.lengths, strict=True))
            ]
            room = planner.resolve_tensor(item).detach()
            room.copy_(part)
            planner.commit_tensor(item, room)
        done: Future[None] = Future()
        done.set_result(None)
        return done
