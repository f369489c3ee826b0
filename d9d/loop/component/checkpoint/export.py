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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from d9d.loop.component.checkpoint.files import CheckpointError, require_plain_name, sync_folder, write_json
from d9d.loop.component.checkpoint.sharded_state import ModelState, describe_model
from d9d.loop.component.checkpoint.state_dict import (
    allocate_tensors,
    describe_metadata,
    dtype_from_name,
    dtype_name,
    join_state,
)
from d9d.loop.component.checkpoint.storage import (
    READ_ERRORS,
    Checkpoint,
    SavedState,
    describe_cause,
    find_complete,
    require_same,
)
from d9d.loop.component.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 5_000_000_000
"""The maximum size of a file, as for Hugging Face's own files; a larger tensor gets a separate file."""

_SUFFIX = ".safetensors"
_INDEX = "model.safetensors.index.json"
_NUM_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
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
_DTYPE_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor without its values.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The size of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class ExportedWeights:
    """The weights of one model in safetensors files.

    Attributes:
        path: One file, or the folder of several.
        tensors: The weights by name, each with its file.
        identity: A name that no other weights have.
    """

    path: Path
    tensors: Mapping[str, tuple[Path, TensorInfo]]
    identity: str

    @staticmethod
    def is_at(path: Path) -> bool:
        """Return whether a path is a safetensors file, or a folder with any."""
        return path.suffix == _SUFFIX if path.is_file() else any(path.glob(f"*{_SUFFIX}"))

    @classmethod
    def find(cls, path: Path) -> Self:
        """Read the headers of safetensors files.

        Args:
            path: One file; or a folder, in which the files that the index names are read, or all without an index.

        Returns:
            The weights.

        Raises:
            CheckpointError: If a file is missing or cannot be read, with its name.
        """
        tensors: dict[str, tuple[Path, TensorInfo]] = {}
        digest = hashlib.sha256()
        try:
            for file in [path] if path.is_file() else _files_in(path):
                for name, info in _read_header(file).items():
                    if name in tensors:
                        raise ValueError(f"{name!r} is in two of its files")
                    tensors[name] = (file, info)
                # Two models can have the same header; that their values differ shows in when they were written.
                digest.update(_header_bytes(file) + str(file.stat().st_mtime_ns).encode())
        except READ_ERRORS as error:
            raise CheckpointError(
                f"cannot read the weights in {path} ({error}): export or download them again"
            ) from error
        return cls(path, tensors, f"{path.name} ({digest.hexdigest()[:16]})")

    def describe_weights(self) -> dict[str, Any]:
        """Describe the weights as `describe_model` does."""
        return describe_metadata(self._metadata())

    def open(self, ranks: Ranks = ALONE) -> SavedState:
        """Open the weights as the state of a job that has a model only.

        Args:
            ranks: The ranks that load them, all of which call this.
        """
        return SavedState(
            path=self.path,
            metadata=self._metadata(),
            reader=_Reader(self),
            num_ranks=1,
            ranks=ranks,
            remedy="export or download the weights again",
        )

    def _metadata(self) -> Any:
        model = [
            [name, {"tensor": {"path": name, "dtype": dtype_name(info.dtype), "shape": list(info.shape)}}]
            for name, (_, info) in self.tensors.items()
        ]
        return {"dict": [["model", {"dict": model}]]}


class _Reader(HuggingFaceStorageReader):
    """Reads the tensors whose headers have been read; torch's own reader takes all files of a folder."""

    def __init__(self, weights: ExportedWeights) -> None:
        super().__init__(str(weights.path))
        self._tensors = weights.tensors

    def read_metadata(self) -> Metadata:
        tensors: dict[str, Any] = {}
        locations = {}
        for name, (file, info) in self._tensors.items():
            size, origin = torch.Size(info.shape), torch.Size([0] * len(info.shape))
            tensors[name] = TensorStorageMetadata(
                properties=TensorProperties(dtype=info.dtype), size=size, chunks=[ChunkStorageMetadata(origin, size)]
            )
            locations[MetadataIndex(name, origin)] = _Location(str(file))
        return Metadata(state_dict_metadata=tensors, storage_data=locations)


@dataclasses.dataclass(frozen=True)
class _Location:
    """Where a tensor is, with the attribute that torch's reader needs."""

    relative_path: str


WeightSource: TypeAlias = Checkpoint | ExportedWeights


def find_source(path: Path, ranks: Ranks = ALONE) -> WeightSource:
    """Find the weights at a path.

    Args:
        path: A checkpoint; the folder of a training run, for its newest complete checkpoint; a safetensors file; or a
            folder with safetensors files.
        ranks: The ranks of the job, all of which call this and get the same.

    Returns:
        The weights, none of which has been read.

    Raises:
        CheckpointError: On all ranks, if there are none, or they are not complete.
    """

    def find() -> WeightSource:
        setting = f"source_checkpoint={str(path)!r}"
        if ExportedWeights.is_at(path):
            return ExportedWeights.find(path)
        if Checkpoint.is_name(path.name):
            checkpoint = Checkpoint(path.resolve())
            if problem := checkpoint.problem():
                raise CheckpointError(f"{setting} cannot be loaded: {problem}")
            return checkpoint
        newest = find_complete(path)
        if newest is None:
            raise CheckpointError(
                f"{setting} contains neither a checkpoint nor a safetensors file: set it to the folder that training "
                "saved or exported into"
            )
        return newest

    return ranks.run_on_rank_zero(find)


def load_weights(source: WeightSource, modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> None:
    """Load the weights of a model, and nothing else.

    Args:
        source: The weights.
        modules: The stages of the model on this rank; the mesh need not be that of the training.
        ranks: The ranks of the job, all of which call this.

    Raises:
        CheckpointError: On all ranks, if the weights cannot be read, or the model has other weights, with name, dtype
            and shape of each.
    """
    expected = describe_model(modules, ranks)
    ranks.run_on_rank_zero(
        lambda: require_same(
            expected,
            source.describe_weights(),
            problem=f"the weights in {source.path} do not fit this model",
            remedy="Build the model that was trained, or set source_checkpoint to other weights.",
        )
    )
    saved = source.open(ranks)
    state = ModelState(modules)
    metadata = state.select_local(saved.metadata_at("model"))
    targets = state.load_targets(metadata)
    saved.load(targets)
    ranks.run_on_all_ranks(lambda: state.load_state_dict(join_state(metadata, targets)))


class WeightExporter:
    """Exports the weights of a model that is being trained.

    Args:
        modules: The stages of the model on this rank.
        ranks: The ranks of the job.
    """

    def __init__(self, modules: Sequence[nn.Module], ranks: Ranks) -> None:
        self._model = ModelState(modules)
        self._ranks = ranks

    def export(self, folder: Path) -> None:
        """Write the weights as they are to safetensors files; all ranks call this.

        They are first saved as they are sharded, and then put together from disk: the disk needs space for two copies,
        and no rank needs memory for more than one tensor.

        Args:
            folder: A folder that does not exist or is empty; the same for all ranks.

        Raises:
            CheckpointError: On all ranks, if the weights cannot be written, or the folder is not empty.
        """
        state = self._ranks.run_on_all_ranks(lambda: {"model": self._model.state_dict()})
        may_differ = {f"model/{name}" for name in self._model.buffer_names()}
        staging = self._ranks.run_on_rank_zero(lambda: _make_staging_directory(folder))
        try:
            checkpoint = Checkpoint.write(staging, 0, state, {}, ranks=self._ranks, may_differ=may_differ)
            export_weights(checkpoint, folder, self._ranks)
        except (OSError, CheckpointException) as error:
            raise _export_error(folder, error) from error
        finally:
            if self._ranks.is_main:
                shutil.rmtree(staging, ignore_errors=True)


def export_weights(
    checkpoint: Checkpoint, folder: Path, ranks: Ranks = ALONE, *, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Write the weights of a checkpoint to safetensors files with an index, one tensor at a time.

    Args:
        checkpoint: A complete checkpoint.
        folder: A folder that does not exist or is empty. It appears when all of it is on disk.
        ranks: The ranks that write, each some of the files; all need the same folders.
        max_file_bytes: How large a file may become.

    Raises:
        CheckpointError: On all ranks, if the weights cannot be written, the folder is not empty, the checkpoint has no
            model, or safetensors files cannot hold the dtype of a weight.
    """
    weights: dict[str, TensorInfo] = {}
    for name, value in checkpoint.open(ranks).metadata_at("model")["dict"]:
        match value:
            case {"tensor": {"dtype": dtype, "shape": shape}}:
                weights[name] = TensorInfo(dtype_from_name(dtype), tuple(shape))
            case _ if ranks.is_main:
                logger.warning("%s: %r is not a tensor and is left out of the export", checkpoint.path, name)
    files = _assign_files(weights, max_file_bytes)
    staging = ranks.run_on_rank_zero(lambda: _make_staging_directory(folder))
    try:
        own = list(files.items())[ranks.rank :: ranks.num_ranks]
        ranks.run_on_all_ranks(lambda: _write_files(staging, own, checkpoint.open()))
        ranks.run_on_rank_zero(lambda: _complete(staging, folder, files))
    except OSError as error:
        raise _export_error(folder, error) from error
    finally:
        if ranks.is_main:
            shutil.rmtree(staging, ignore_errors=True)


def _files_in(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.exists():
        return sorted(folder.glob(f"*{_SUFFIX}"))
    _require_regular_file(index)
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [folder / require_plain_name(name, _INDEX) for name in sorted(names)]


def _read_header(path: Path) -> dict[str, TensorInfo]:
    """Read which tensors a file has."""
    _require_regular_file(path)
    tensors: dict[str, TensorInfo] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- it is no mapping
                tensor = file.get_slice(name)
                code = tensor.get_dtype()
                if code not in _DTYPES:
                    raise ValueError(f"{name!r} in {path} has the dtype {code}, which d9d does not know")
                tensors[name] = TensorInfo(_DTYPES[code], tuple(tensor.get_shape()))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    return tensors


def _require_regular_file(path: Path) -> None:
    """Refuse a pipe, for whose other end a reader would wait; a link is followed, as in the cache of Hugging Face."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file")


def _header_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(_NUM_LENGTH_BYTES), "little"))


def _make_staging_directory(folder: Path) -> Path:
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise CheckpointError(f"{folder} is not empty, or not a directory: choose a new or empty folder for the export")
    staging = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise _export_error(folder, error) from error
    return staging


def _assign_files(weights: Mapping[str, TensorInfo], max_file_bytes: int) -> dict[str, dict[str, TensorInfo]]:
    """Return the weights of each file."""
    parts: list[dict[str, TensorInfo]] = [{}]
    num_bytes = 0
    for name, info in weights.items():
        if parts[-1] and num_bytes + info.num_bytes > max_file_bytes:
            parts.append({})
            num_bytes = 0
        parts[-1][name] = info
        num_bytes += info.num_bytes
    return {f"model-{number:05}-of-{len(parts):05}{_SUFFIX}": part for number, part in enumerate(parts, start=1)}


def _write_files(staging: Path, files: Sequence[tuple[str, Mapping[str, TensorInfo]]], saved: SavedState) -> None:
    """Write files with one tensor in memory at a time; they are on disk when this returns."""
    for file_name, weights in files:
        # Tensors of larger dtypes come first, so that each is aligned for its own and can be used in place.
        names = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
        with (staging / file_name).open("xb") as file:
            file.write(_encode_header(names, weights))
            for name in names:
                targets = allocate_tensors(saved.metadata_at("model", name))
                saved.load(targets)
                (tensor,) = targets.values()
                file.write((ctypes.c_char * weights[name].num_bytes).from_address(tensor.data_ptr()))
            file.flush()
            os.fsync(file.fileno())


def _encode_header(names: Sequence[str], weights: Mapping[str, TensorInfo]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        info = weights[name]
        if info.dtype not in _DTYPE_CODES:
            raise CheckpointError(
                f"{name!r} has the dtype {info.dtype}, which safetensors files cannot hold: convert it before exporting"
            )
        start, end = end, end + info.num_bytes
        header[name] = {"dtype": _DTYPE_CODES[info.dtype], "shape": info.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(_NUM_LENGTH_BYTES, "little") + text


def _complete(staging: Path, folder: Path, files: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    """Add the index, and move the folder to its name."""
    total = sum(info.num_bytes for weights in files.values() for info in weights.values())
    file_names = {name: file_name for file_name, weights in files.items() for name in weights}
    write_json(staging / _INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_names.items()))})
    sync_folder(staging)
    staging.rename(folder)
    sync_folder(folder.parent)


def _export_error(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"could not export the weights to {folder} ({describe_cause(error)}): fix this and export again"
    )
