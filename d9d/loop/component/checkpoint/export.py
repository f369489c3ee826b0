"""Weights for other tools, and from them: safetensors files, and the weights of other runs."""

import ctypes
import dataclasses
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from torch import nn
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

from d9d.loop.component.checkpoint.dcp import READ_ERRORS, SavedState, fill_tensors
from d9d.loop.component.checkpoint.files import CheckpointError, synchronize_folder, write_json
from d9d.loop.component.checkpoint.sharded_state import ModelState, describe_model
from d9d.loop.component.checkpoint.state_dict import describe_outline, dtype_of, empty_tensors, join_state
from d9d.loop.component.checkpoint.storage import Checkpoint, find_complete, require_same
from d9d.loop.component.ranks import ALONE, Ranks, or_checkpoint_exception

_NUM_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class TensorDescription:
    """A tensor without its numbers.

    Attributes:
        dtype: The format of its numbers.
        shape: Its shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """How many bytes its numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: The file.
        description: What it is.
        start: Where its bytes begin in the file.
    """

    file: Path
    description: TensorDescription
    start: int

    def map(self) -> torch.Tensor:
        """Return the tensor, of which nothing is read before it is used."""
        stop = self.start + self.description.num_bytes
        if stop == self.start:
            return torch.empty(self.description.shape, dtype=self.description.dtype)
        content = torch.from_file(str(self.file), shared=False, size=stop, dtype=torch.uint8)[self.start :]
        if self.start % self.description.dtype.itemsize:  # no writer of ours
            content = content.clone()
        return content.view(self.description.dtype).view(self.description.shape)


def write_safetensors(
    path: Path, tensors: Mapping[str, TensorDescription], read: Callable[[str], torch.Tensor]
) -> None:
    """Write a file, with one tensor at a time in memory; it is on disk when this returns.

    Args:
        path: The file.
        tensors: What will be written, by name.
        read: Returns the tensor of a name, on the CPU.

    Raises:
        OSError: If the file cannot be written.
        TypeError: If the format has no name for the numbers of a tensor.
    """
    # The widest numbers first: all of them then begin where a program can use them in place.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    with path.open("wb") as file:
        file.write(_header(names, tensors))
        for name in names:
            tensor = read(name).contiguous()
            file.write((ctypes.c_char * tensors[name].num_bytes).from_address(tensor.data_ptr()))
        file.flush()
        os.fsync(file.fileno())


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], bytes]:
    """Read which tensors a file holds.

    Args:
        path: The file.

    Returns:
        The tensors by name, and the header as it is.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is of another format, or shorter or longer than it says.
    """
    with path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_NUM_LENGTH_BYTES), "little")
        if length > num_bytes - _NUM_LENGTH_BYTES:
            raise ValueError(f"{path} is no safetensors file, or has been cut off")
        header = file.read(length)
    start = _NUM_LENGTH_BYTES + length
    entries = {name: entry for name, entry in json.loads(header).items() if name != _METADATA}
    try:
        found = {name: _stored(path, entry, start) for name, entry in entries.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has a header that is no safetensors header ({error})") from error
    end = max((tensor.start + tensor.description.num_bytes for tensor in found.values()), default=start)
    if end != num_bytes:
        raise ValueError(f"{path} has {num_bytes} bytes instead of {end}")
    return found, header


def _header(names: list[str], tensors: Mapping[str, TensorDescription]) -> bytes:
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    end = 0
    for name in names:
        described = tensors[name]
        if described.dtype not in _NAMES:
            raise TypeError(f"{name!r} is of {described.dtype}, for which safetensors has no name: export it otherwise")
        start, end = end, end + described.num_bytes
        header[name] = {"dtype": _NAMES[described.dtype], "shape": described.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(_NUM_LENGTH_BYTES, "little") + text


def _stored(path: Path, entry: Mapping[str, list[int]], start: int) -> StoredTensor:
    described = TensorDescription(_DTYPES[str(entry["dtype"])], tuple(entry["shape"]))
    first, last = entry["data_offsets"]
    if last - first != described.num_bytes:
        raise TypeError(f"a tensor of {described} has {last - first} bytes")
    return StoredTensor(path, described, start + first)


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


WeightSource: TypeAlias = Checkpoint | ExportedWeights

_REMEDY = "Build the model that was trained, or name another source_checkpoint."


def find_source(path: Path, ranks: Ranks = ALONE) -> WeightSource:
    """Find the weights that a path means.

    Args:
        path: One checkpoint; the folder of a training run, whose newest complete checkpoint is meant; a file of
            safetensors, or a folder of such files.
        ranks: The processes of this job, all of which call this and get the same.

    Returns:
        A complete checkpoint, or weights that have all their files.

    Raises:
        CheckpointError: On all ranks, if there is none.
    """
    return ranks.run_on_rank_zero(lambda: _find_source(path))


def identify_source(source: WeightSource) -> str:
    """Return what tells weights from all others.

    Args:
        source: The weights.

    Returns:
        A name, and what is of these weights alone.
    """
    if isinstance(source, ExportedWeights):
        return source.identity
    return f"{source.path.name} ({source.manifest()['id']})"


def load_weights(source: WeightSource, modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> None:
    """Load the weights of a training run, and nothing else of it.

    Args:
        source: The weights.
        modules: The stages of the model that this rank holds, however that of training was divided.
        ranks: The processes of this job, all of which call this.

    Raises:
        CheckpointError: On all ranks, if the model of the source has other weights, with name, type and shape of each,
            or it is damaged.
    """
    expected = describe_model(modules, ranks)
    ranks.run_on_rank_zero(lambda: require_same(expected, _describe(source), source.path, remedy=_REMEDY))
    state = ModelState(modules)
    if isinstance(source, ExportedWeights):
        outline = state.narrow(source.describe())
        rooms = state.make_room(outline)
        source.fill(rooms, ranks)
    else:
        saved = source.open(ranks)
        outline = state.narrow(saved.outline_at("model"))
        rooms = state.make_room(outline)
        saved.fill(rooms)
    ranks.run_on_all_ranks(lambda: state.load_state_dict(join_state(outline, rooms)))


def _describe(source: WeightSource) -> dict[str, Any]:
    """Return the type and shape of each weight, by its path."""
    if isinstance(source, ExportedWeights):
        return describe_outline({"dict": [["model", source.describe()]]})
    settings = source.manifest()["settings"]
    return {name: value for name, value in settings.items() if name.startswith("model/")}


def _find_source(path: Path) -> WeightSource:
    if ExportedWeights.is_at(path):
        return ExportedWeights.open(path)
    if Checkpoint.is_name(path.name):
        checkpoint = Checkpoint(path)
        defect = checkpoint.defect()
        if defect is not None:
            raise CheckpointError(f"source_checkpoint={str(path)!r} cannot be loaded: {defect}")
        return checkpoint
    newest = find_complete(path)
    if newest is None:
        raise CheckpointError(
            f"source_checkpoint={str(path)!r} holds no checkpoint: name the folder that training saved or exported "
            "into, or train"
        )
    return newest


logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 5_000_000_000
"""How large a file may become, which is what Hugging Face's own are; a larger tensor has a file of its own."""


class WeightExporter:
    """Exports the weights of a model that is being trained.

    Args:
        modules: The stages of the model that this rank holds.
        ranks: The processes of the job.
    """

    def __init__(self, modules: Sequence[nn.Module], ranks: Ranks) -> None:
        self._model = ModelState(modules)
        self._ranks = ranks

    def export(self, folder: Path) -> None:
        """Write the weights as they are; all ranks call this.

        They are first written as they lie on the ranks, and then brought together from disk: the disk needs room for
        two copies, and no process for more than a tensor.

        Args:
            folder: Where to; is not there yet, or empty. All ranks see the same.

        Raises:
            CheckpointError: On all ranks, if they cannot be written, or the folder holds something.
        """
        state = self._ranks.run_on_all_ranks(lambda: {"model": self._model.state_dict()})
        differing = {f"model/{name}" for name in self._model.buffer_names()}
        scratch = self._ranks.run_on_rank_zero(lambda: _make_scratch(folder))
        try:
            checkpoint = Checkpoint.write(scratch, 0, state, {}, ranks=self._ranks, differing=differing)
            export_weights(checkpoint, folder, self._ranks)
        except or_checkpoint_exception(OSError) as error:
            raise _failure(folder, error) from error
        finally:
            if self._ranks.is_main:
                shutil.rmtree(scratch, ignore_errors=True)


def export_weights(
    checkpoint: Checkpoint, folder: Path, ranks: Ranks = ALONE, *, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Write the weights of a checkpoint, one tensor at a time, as files of safetensors with an index.

    Args:
        checkpoint: Is complete.
        folder: Where to; is not there yet, or empty. It appears whole or not at all.
        ranks: Who writes: each some of the files. All see the same folders.
        max_file_bytes: How large a file may become.

    Raises:
        CheckpointError: On all ranks, if they cannot be written, the folder holds something, or the checkpoint has no
            model.
    """
    saved = checkpoint.open(ranks)
    outline = saved.outline_at("model")
    files = _divide(_weights_in(outline, checkpoint, ranks), max_file_bytes)
    scratch = ranks.run_on_rank_zero(lambda: _make_scratch(folder))
    try:
        own = list(files.items())[ranks.rank :: ranks.num_ranks]
        ranks.run_on_all_ranks(lambda: _write_files(scratch, own, checkpoint.open()))
        ranks.run_on_rank_zero(lambda: _complete(scratch, folder, files))
    except OSError as error:
        raise _failure(folder, error) from error
    finally:
        if ranks.is_main:
            shutil.rmtree(scratch, ignore_errors=True)


def _make_scratch(folder: Path) -> Path:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(f"{folder} holds something already: name a folder for the weights alone")
    scratch = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise _failure(folder, error) from error
    return scratch


def _weights_in(outline: Any, checkpoint: Checkpoint, ranks: Ranks) -> dict[str, TensorDescription]:
    weights: dict[str, TensorDescription] = {}
    for name, value in outline["dict"]:
        match value:
            case {"tensor": {"dtype": dtype, "shape": shape}}:
                weights[name] = TensorDescription(dtype_of(dtype), tuple(shape))
            case _ if ranks.is_main:
                logger.warning("%s: %r is no tensor, and is left out of the export", checkpoint.path, name)
    return weights


def _divide(weights: Mapping[str, TensorDescription], max_file_bytes: int) -> dict[str, dict[str, TensorDescription]]:
    """Return which weights each file has."""
    parts: list[dict[str, TensorDescription]] = [{}]
    num_bytes = 0
    for name, described in weights.items():
        if parts[-1] and num_bytes + described.num_bytes > max_file_bytes:
            parts.append({})
            num_bytes = 0
        parts[-1][name] = described
        num_bytes += described.num_bytes
    return {f"model-{number:05}-of-{len(parts):05}.safetensors": part for number, part in enumerate(parts, start=1)}


def _write_files(
    scratch: Path, files: Sequence[tuple[str, Mapping[str, TensorDescription]]], saved: SavedState
) -> None:
    def read(name: str) -> torch.Tensor:
        rooms = empty_tensors(saved.outline_at("model", name))
        saved.fill(rooms)
        (tensor,) = rooms.values()
        return tensor

    for name, weights in files:
        write_safetensors(scratch / name, weights, read)


def _complete(scratch: Path, folder: Path, files: Mapping[str, Mapping[str, TensorDescription]]) -> None:
    total = sum(described.num_bytes for weights in files.values() for described in weights.values())
    places = {name: file for file, weights in files.items() for name in weights}
    write_json(scratch / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})
    synchronize_folder(scratch)
    scratch.rename(folder)
    synchronize_folder(folder.parent)


def _failure(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"the weights could not be exported to {folder} ({error}): mend that, and export again")
