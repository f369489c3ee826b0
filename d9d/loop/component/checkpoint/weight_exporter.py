"""From the weights of a job to files that other tools load, without the whole model in any process."""

import logging
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.checkpoint.durable_file import synchronize_folder, write_json
from d9d.loop.component.checkpoint.model_state import ModelState
from d9d.loop.component.checkpoint.safetensors_file import INDEX, TensorDescription, write_safetensors
from d9d.loop.component.checkpoint.saved_state import CheckpointError, SavedState
from d9d.loop.component.checkpoint.state_tree import dtype_of, empty_tensors
from d9d.loop.component.ranks import ALONE, Ranks, or_checkpoint_exception

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
        state = self._ranks.everywhere(lambda: {"model": self._model.state_dict()})
        differing = {f"model/{name}" for name in self._model.buffer_names()}
        scratch = self._ranks.on_main(lambda: _make_scratch(folder))
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
    scratch = ranks.on_main(lambda: _make_scratch(folder))
    try:
        own = list(files.items())[ranks.rank :: ranks.num_ranks]
        ranks.everywhere(lambda: _write_files(scratch, own, checkpoint.open()))
        ranks.on_main(lambda: _complete(scratch, folder, files))
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
