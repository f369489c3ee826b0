"""Weights for other tools: safetensors files, as `from_pretrained` loads them."""

import ctypes
import filecmp
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from d9d.core.settings import require_local
from d9d.loop.component.checkpoint.files import CheckpointError, sync_folder, write_json
from d9d.loop.component.checkpoint.sharded_state import ModelState
from d9d.loop.component.checkpoint.source import DTYPES, INDEX_SUFFIX, SUFFIX
from d9d.loop.component.checkpoint.state_dict import Region, TensorInfo
from d9d.loop.component.checkpoint.storage import Checkpoint, SavedState, describe_cause
from d9d.loop.component.checkpoint.weight_mapping import Recipe, WeightMapping, follow
from d9d.loop.component.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 5_000_000_000
"""The maximum size of a file, as for Hugging Face's own files; a larger tensor gets a separate file."""

_NUM_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
_DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


@runtime_checkable
class SavesPretrained(Protocol):
    """A configuration or a tokenizer of transformers, peft or another library, which can write its own files."""

    def save_pretrained(self, save_directory: str, /) -> Any:
        """Write the files into a folder."""


ExportedFiles: TypeAlias = SavesPretrained | Path | str | Sequence[SavesPretrained | Path | str]
"""What an export contains besides weights: objects with `save_pretrained`, and files to copy."""


class WeightExporter:
    """Exports the weights of a model that is being trained.

    Args:
        modules: The stages of the model on this rank.
        ranks: The ranks of the job.
        mapping: How the weights correspond to those in files; by default they are the same.
        tied: The weights that stages of a pipeline share, as for `ModelState`.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        ranks: Ranks,
        mapping: WeightMapping | None = None,
        tied: Mapping[str, str] | None = None,
    ) -> None:
        self._modules = modules
        self._ranks = ranks
        self._mapping = mapping
        self._tied = tied

    def export(
        self, folder: Path, *, config: ExportedFiles = (), trainable_only: bool = False, name: str = "model"
    ) -> None:
        """Write the weights as they are to safetensors files; all ranks call this.

        They are first saved as they are sharded, and then put together from disk: the disk needs space for two copies,
        and no rank needs memory for more than one tensor.

        Args:
            folder: A folder that does not exist, is empty, or holds the same export; the same for all ranks.
            config: Files to write besides the weights.
            trainable_only: Whether to leave out parameters that do not require a gradient.
            name: The name of the files, without their number and suffix.

        Raises:
            CheckpointError: On all ranks, if the weights cannot be written, or the folder holds anything else.
        """
        _list_files(config)
        model = ModelState(self._modules, self._tied, trainable_only=trainable_only)
        state = self._ranks.run_on_all_ranks(lambda: {"model": model.state_dict()})
        may_differ = {f"model/{name}" for name in model.buffer_names()}
        staging = self._ranks.run_on_rank_zero(lambda: _make_staging_directory(folder, name))
        try:
            checkpoint = Checkpoint.write(staging, 0, state, {}, ranks=self._ranks, may_differ=may_differ)
            export_weights(checkpoint, folder, self._ranks, mapping=self._mapping, config=config, name=name)
        except (OSError, CheckpointException) as error:
            raise _export_error(folder, error) from error
        finally:
            if self._ranks.is_main:
                shutil.rmtree(staging, ignore_errors=True)


def export_weights(
    checkpoint: Checkpoint,
    folder: Path,
    ranks: Ranks = ALONE,
    *,
    mapping: WeightMapping | None = None,
    config: ExportedFiles = (),
    name: str = "model",
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write the weights of a checkpoint to safetensors files, one tensor at a time.

    A single file is called `model.safetensors`; several are numbered and have an index, as Hugging Face has them.

    Args:
        checkpoint: A complete checkpoint.
        folder: A folder that does not exist, is empty, or holds the same export, which is then left as it is. It
            appears when all of it is on disk.
        ranks: The ranks that write, each some of the files; all need the same folders.
        mapping: How the weights correspond to those in files; by default they are the same.
        config: Files to write besides the weights.
        name: The name of the files, without their number and suffix.
        max_file_bytes: How large a file may become.

    Raises:
        CheckpointError: On all ranks, if the weights cannot be written, the folder holds anything else, the checkpoint
            has no model, the mapping does not fit it, or safetensors files cannot hold the dtype of a weight.
    """
    others_to_write = _list_files(config)
    saved = checkpoint.open(ranks)
    weights = {key: info for key, (_, info) in saved.weights().items()}
    others = [repr(key) for key, _ in saved.metadata_at("model")["dict"] if key not in weights]
    if others and ranks.is_main:
        logger.warning("%s: no tensors, and so left out of the export: %s", checkpoint.path, ", ".join(others))
    recipes = (mapping or WeightMapping()).plan_export(weights)
    if not recipes:
        raise CheckpointError(f"{checkpoint.path} has no weights to export")
    files = _assign_files({key: recipe.info for key, recipe in recipes.items()}, max_file_bytes, name)
    staging = ranks.run_on_rank_zero(lambda: _make_staging_directory(folder, name))
    try:
        own = list(files.items())[ranks.rank :: ranks.num_ranks]
        ranks.run_on_all_ranks(lambda: _write_files(staging, own, recipes, checkpoint.open()))
        ranks.run_on_rank_zero(lambda: _complete(staging, folder, files, name, others_to_write))
    except OSError as error:
        raise _export_error(folder, error) from error
    finally:
        if ranks.is_main:
            shutil.rmtree(staging, ignore_errors=True)


def _list_files(config: ExportedFiles) -> list[SavesPretrained | Path]:
    """Return what to write besides weights, if it is something that can be written."""
    files: list[SavesPretrained | Path] = []
    for each in [config] if isinstance(config, str) or not isinstance(config, Sequence) else config:
        if isinstance(each, str | Path):
            files.append(Path(each))
        elif isinstance(each, SavesPretrained):
            files.append(each)
        else:
            raise CheckpointError(
                f"config of the export is a {type(each).__qualname__}: pass a configuration or a tokenizer with "
                "save_pretrained, the path of a file to copy, or a list of these"
            )
    return files


def _make_staging_directory(folder: Path, name: str) -> Path:
    try:
        require_local(folder)
    except ValueError as error:
        raise CheckpointError(f"cannot export the weights: {error}") from None
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise CheckpointError(f"{folder} is a link, or not a directory: choose a new or empty folder for the export")
    if _has_files(folder) and not _weight_files(folder, name):  # others are compared when they are written
        raise CheckpointError(
            f"{folder} is not empty, and holds no export named {name!r}: choose a new or empty folder for the export"
        )
    staging = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise _export_error(folder, error) from error
    return staging


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _weight_files(folder: Path, name: str) -> set[str]:
    """Return the names of the files of an export that hold weights, and of their index."""
    endings = (SUFFIX, INDEX_SUFFIX)
    return {path.name for path in folder.iterdir() if path.name.startswith(name) and path.name.endswith(endings)}


def _require_same(staging: Path, folder: Path, name: str) -> None:
    """Refuse a folder that does not hold what was just written; other files may be there too.

    A script that is run again exports the same weights, and must not fail because it has succeeded before. Anything
    else in the folder may be the only copy, so nothing is replaced.
    """
    missing = sorted(_weight_files(folder, name) ^ _weight_files(staging, name))
    missing += [path.name for path in staging.rglob("*") if path.is_file() and not _is_same(path, staging, folder)]
    if missing:
        raise CheckpointError(
            f"{folder} holds another export: {missing[0]} differs. An export replaces nothing: move or remove the "
            "folder and export again, or choose a new one"
        )
    logger.info("%s holds these weights already, bit for bit: nothing is written", folder)


def _is_same(path: Path, staging: Path, folder: Path) -> bool:
    other = folder / path.relative_to(staging)
    if not other.is_file() or filecmp.cmp(path, other, shallow=False):
        return other.is_file()
    try:
        return path.name.endswith("config.json") and _read_unordered(path) == _read_unordered(other)
    except ValueError:
        return False


def _read_unordered(path: Path) -> Any:
    """Read a configuration. peft keeps some lists as sets, and writes them in another order in each process."""

    def sort(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sort(each) for key, each in value.items()}
        return sorted(map(sort, value), key=repr) if isinstance(value, list) else value

    return sort(json.loads(path.read_text(encoding="utf-8")))


def _assign_files(
    weights: Mapping[str, TensorInfo], max_file_bytes: int, file_name: str
) -> dict[str, dict[str, TensorInfo]]:
    """Return the weights of each file."""
    parts: list[dict[str, TensorInfo]] = [{}]
    num_bytes = 0
    for name, info in weights.items():
        if parts[-1] and num_bytes + info.num_bytes > max_file_bytes:
            parts.append({})
            num_bytes = 0
        parts[-1][name] = info
        num_bytes += info.num_bytes
    if len(parts) == 1:
        return {f"{file_name}{SUFFIX}": parts[0]}
    return {f"{file_name}-{number:05}-of-{len(parts):05}{SUFFIX}": part for number, part in enumerate(parts, start=1)}


def _write_files(
    staging: Path,
    files: Sequence[tuple[str, Mapping[str, TensorInfo]]],
    recipes: Mapping[str, Recipe],
    saved: SavedState,
) -> None:
    """Write files with one tensor in memory at a time; they are on disk when this returns."""
    stored = saved.weights()
    for file_name, weights in files:
        # Tensors of larger dtypes come first, so that each is aligned for its own and can be used in place.
        names = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
        with (staging / file_name).open("xb") as file:
            file.write(_encode_header(names, weights))
            for name in names:
                tensor = torch.empty(weights[name].shape, dtype=weights[name].dtype)
                regions: dict[str, list[Region]] = {}
                for part, steps in recipes[name].parts:
                    if (region := follow(steps, Region.of(tensor))) is not None:
                        regions.setdefault(stored[part][0], []).append(region)
                saved.load_regions(regions)
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


def _complete(
    staging: Path,
    folder: Path,
    files: Mapping[str, Mapping[str, TensorInfo]],
    name: str,
    others: Sequence[SavesPretrained | Path],
) -> None:
    """Add the index and the other files, and move the folder to its name."""
    if len(files) > 1:
        total = sum(info.num_bytes for weights in files.values() for info in weights.values())
        file_names = {key: file_name for file_name, weights in files.items() for key in weights}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_names.items()))}
        write_json(staging / f"{name}{INDEX_SUFFIX}", index)
    for each in others:
        if isinstance(each, Path):
            shutil.copyfile(each, staging / each.name)
        else:
            each.save_pretrained(str(staging))
    if _has_files(folder):
        _require_same(staging, folder, name)
        return
    sync_folder(staging)
    staging.rename(folder)
    sync_folder(folder.parent)


def _export_error(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"could not export the weights to {folder} ({describe_cause(error)}): fix this and export again"
    )
