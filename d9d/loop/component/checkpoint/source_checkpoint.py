"""From where inference takes its weights: a checkpoint of a training run, or exported weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.checkpoint.checkpoint_folder import find_complete
from d9d.loop.component.checkpoint.checkpoint_settings import require_same
from d9d.loop.component.checkpoint.exported_weights import ExportedWeights
from d9d.loop.component.checkpoint.model_state import ModelState, describe_model
from d9d.loop.component.checkpoint.saved_state import CheckpointError
from d9d.loop.component.checkpoint.state_tree import describe_outline, join_state
from d9d.loop.component.ranks import ALONE, Ranks

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
    return ranks.on_main(lambda: _find_source(path))


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
    ranks.on_main(lambda: require_same(expected, _describe(source), source.path, remedy=_REMEDY))
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
    ranks.everywhere(lambda: state.load_state_dict(join_state(outline, rooms)))


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
