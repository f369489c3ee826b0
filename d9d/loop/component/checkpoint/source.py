"""The weights that a job starts from: safetensors files, and checkpoints of other runs."""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from d9d.loop.component.checkpoint.files import CheckpointError, require_plain_name
from d9d.loop.component.checkpoint.sharded_state import ModelState
from d9d.loop.component.checkpoint.state_dict import (
    Region,
    TensorInfo,
    allocate_tensors,
    dtype_name,
    join_state,
)
from d9d.loop.component.checkpoint.storage import READ_ERRORS, Checkpoint, SavedState, choose_remedy, find_complete
from d9d.loop.component.checkpoint.weight_mapping import LoadPlan, Recipe, WeightMapping, follow
from d9d.loop.component.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
DTYPES = {
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
"""The dtypes that safetensors files can hold, by their names there."""

_NUM_LENGTH_BYTES = 8
_PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
        return path.suffix == SUFFIX if path.is_file() else any(path.glob(f"*{SUFFIX}"))

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
                f"cannot read the weights in {path} ({error}): {choose_remedy(error, 'export or download them again')}"
            ) from error
        return cls(path, tensors, f"{path.name} ({digest.hexdigest()[:16]})")

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
        _refuse_other_formats(path, setting)
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
                "saved or exported into, or to published weights"
            )
        return newest

    return ranks.run_on_rank_zero(find)


@dataclasses.dataclass(frozen=True)
class SourceWeights:
    """The weights that a job starts from, and how they correspond to those of its model.

    Attributes:
        sources: Where they are. If several have a weight, the last one counts.
        mapping: How they correspond to the model.
        tied: The weights that stages of a pipeline share, as for `ModelState`.
    """

    sources: tuple[WeightSource, ...]
    mapping: WeightMapping = dataclasses.field(default_factory=WeightMapping)
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A name that no other weights have."""
        return " and ".join(source.identity for source in self.sources)

    @property
    def described(self) -> str:
        """Where they are, for messages."""
        return " and ".join(str(source.path) for source in self.sources)

    def plan(self, modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> LoadPlan:
        """Decide what is loaded into which weight of the model, and read nothing but names.

        Args:
            modules: The stages of the model on this rank; their weights may be on the meta device.
            ranks: The ranks of the job, all of which call this and get the same.

        Raises:
            CheckpointError: On all ranks, if the weights do not fit the model, with each that is missing or unexpected.
        """
        state = ModelState(modules, self.tied)
        of_ranks = ranks.gather((tensors_in(state.weights()), {**state.aliases(), **self.tied}))
        model = {name: info for tensors, _ in of_ranks for name, info in tensors.items()}
        aliases = {alias: name for _, names in of_ranks for alias, name in names.items()}
        return ranks.run_on_rank_zero(
            lambda: self.mapping.plan_load(
                [_infos(source.open()) for source in self.sources],
                model,
                aliases=aliases,
                described=self.described,
                native=[number for number, source in enumerate(self.sources) if isinstance(source, Checkpoint)],
            )
        )

    def load(self, modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> None:
        """Load the weights into the model, and nothing else. No rank holds more than its part and one tensor.

        Args:
            modules: The stages of the model on this rank; the mesh need not be that of the training.
            ranks: The ranks of the job, all of which call this.

        Raises:
            CheckpointError: On all ranks, if the weights cannot be read or do not fit the model.
        """
        plan = self.plan(modules, ranks)
        state = ModelState(modules, self.tied)
        own = state.weights()
        loaded = dict(own)
        for number, source in enumerate(self.sources):
            saved = source.open(ranks)
            paths = {name: path for name, (path, _) in saved.weights().items()}
            regions: dict[str, list[Region]] = {}
            for name, (place, recipe) in plan.recipes.items():
                if place == number and name in own:
                    _collect(recipe, Region.of(own[name]), paths, regions)
            saved.load_regions(regions)
            loaded |= _load_others(saved, own)
            for name, (place, recipe) in plan.duplicates.items():
                if place == number:
                    _require_equal(name, own.get(name), recipe, saved, paths)
        ranks.run_on_all_ranks(lambda: state.load_state_dict(loaded))
        if ranks.is_main:
            self._log(plan)

    def _log(self, plan: LoadPlan) -> None:
        logger.info("loaded %d weights from %s", len(plan.recipes), self.described)
        if plan.cast:
            logger.info("%d of them were converted to the dtypes of the model: %s", len(plan.cast), _listed(plan.cast))
        if plan.missing:
            logger.info("weights that keep their initial values: %s", ", ".join(plan.missing))
        if plan.ignored:
            logger.info("weights of %s that were ignored: %s", self.described, ", ".join(plan.ignored))


def load_weights(
    source: WeightSource, modules: Sequence[nn.Module], ranks: Ranks = ALONE, mapping: WeightMapping | None = None
) -> None:
    """Load the weights of a model, and nothing else.

    Args:
        source: The weights.
        modules: The stages of the model on this rank; the mesh need not be that of the training.
        ranks: The ranks of the job, all of which call this.
        mapping: How the weights correspond to those of the model; by default they are the same.

    Raises:
        CheckpointError: On all ranks, if the weights cannot be read or do not fit the model.
    """
    SourceWeights((source,), mapping or WeightMapping()).load(modules, ranks)


def _refuse_other_formats(path: Path, setting: str) -> None:
    """Refuse what people try first: pickles, and names of models that are elsewhere."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    pickles = [file for file in files if file.suffix in _PICKLES]
    is_usable = ExportedWeights.is_at(path) or Checkpoint.is_name(path.name) or bool(Checkpoint.list_in(path))
    if pickles and not is_usable:
        raise CheckpointError(
            f"{setting} has no safetensors file, but {pickles[0].name}, which is a pickle: reading one can run any "
            "code that is in it. If you trust it, convert it once, with safetensors.torch.save_file(torch.load"
            f"({pickles[0].name!r}, weights_only=True), 'model.safetensors'), and set source_checkpoint to that file"
        )
    if not path.exists():
        is_name = _HUB_NAME.fullmatch(str(path)) is not None
        raise CheckpointError(
            f"{setting} does not exist: set it to a folder of checkpoints, or to a safetensors file or a folder of them"
            + (
                ". If it is the name of a model on the Hugging Face hub, download it first: "
                f"huggingface_hub.snapshot_download({str(path)!r}) returns its folder"
                if is_name
                else ""
            )
        )


def tensors_in(values: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Return the dtypes and shapes of the tensors among named values."""
    return {
        name: TensorInfo(value.dtype, tuple(value.shape))
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _infos(saved: SavedState) -> dict[str, TensorInfo]:
    return {name: info for name, (_, info) in saved.weights().items()}


def _collect(recipe: Recipe, own: Region | None, paths: Mapping[str, str], regions: dict[str, list[Region]]) -> None:
    """Add what this rank needs of the parts of a tensor."""
    for part, steps in recipe.parts:
        if (region := follow(steps, own)) is not None:
            regions.setdefault(paths[part], []).append(region)


def _load_others(saved: SavedState, own: Mapping[str, Any]) -> dict[str, Any]:
    """Load what modules keep in checkpoints besides tensors, under the same names."""
    metadata = {
        name: value
        for name, value in saved.metadata_at("model")["dict"]
        if name in own and not isinstance(own[name], torch.Tensor)
    }
    tensors = allocate_tensors({"dict": [*metadata.items()]})
    saved.load(tensors)
    return {name: join_state(value, tensors) for name, value in metadata.items()}


def _require_equal(name: str, tensor: Any, recipe: Recipe, saved: SavedState, paths: Mapping[str, str]) -> None:
    """Refuse weights that hold two different tensors for one that the model ties."""
    regions: dict[str, list[Region]] = {}
    own = None if tensor is None else Region.of(tensor)
    other = None if own is None else Region(torch.empty_like(own.tensor), own.offsets)
    _collect(recipe, other, paths, regions)
    saved.load_regions(regions)

    def compare() -> None:
        if own is not None and other is not None and not torch.equal(own.tensor, other.tensor):
            raise CheckpointError(
                f"{saved.path} has different values for {recipe.parts[0][0]!r} and for {name!r}, which this model "
                "ties to one weight: build the model without tied weights, or pass a weight_mapping that renames one "
                "of them and names it in unexpected=[...]"
            )

    saved.ranks.run_on_all_ranks(compare)


def _listed(names: Sequence[str]) -> str:
    shown = 3
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def _files_in(folder: Path) -> list[Path]:
    """Return the files that an index names; without one, `model.safetensors`, or else all files."""
    preferred = folder / f"model{INDEX_SUFFIX}"
    index = preferred if preferred.exists() else next(iter(sorted(folder.glob(f"*{INDEX_SUFFIX}"))), None)
    if index is None:
        single = folder / f"model{SUFFIX}"
        return [single] if single.exists() else sorted(folder.glob(f"*{SUFFIX}"))
    _require_regular_file(index)
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [folder / require_plain_name(name, index.name) for name in sorted(names)]


def _read_header(path: Path) -> dict[str, TensorInfo]:
    """Read which tensors a file has."""
    _require_regular_file(path)
    path.open("rb").close()  # safetensors reports that a file may not be read as missing
    tensors: dict[str, TensorInfo] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- it is no mapping
                tensor = file.get_slice(name)
                code = tensor.get_dtype()
                if code not in DTYPES:
                    raise ValueError(f"{name!r} in {path} has the dtype {code}, which d9d does not know")
                tensors[name] = TensorInfo(DTYPES[code], tuple(tensor.get_shape()))
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
