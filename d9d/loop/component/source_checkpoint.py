"""The checkpoint of a training run from which inference takes its weights."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from d9d.loop.component.checkpoint import Checkpoint
from d9d.loop.component.checkpoint_folder import find_complete
from d9d.loop.component.checkpoint_settings import require_same
from d9d.loop.component.model_state import ModelState, describe_model
from d9d.loop.component.ranks import ALONE, Ranks
from d9d.loop.component.saved_state import CheckpointError
from d9d.loop.component.state_tree import join_state

_REMEDY = "Build the model that was trained, or name another source_checkpoint."


def find_source(path: Path, ranks: Ranks = ALONE) -> Checkpoint:
    """Find the checkpoint that a path means.

    Args:
        path: One checkpoint, or the folder of a training run, whose newest complete checkpoint is meant.
        ranks: The processes of this job, all of which call this and get the same.

    Returns:
        A complete checkpoint.

    Raises:
        CheckpointError: On all ranks, if there is none.
    """
    return ranks.on_main(lambda: _find_source(path))


def load_weights(checkpoint: Checkpoint, modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> None:
    """Load the weights of a training run, and nothing else of it.

    Args:
        checkpoint: The checkpoint.
        modules: The stages of the model that this rank holds, however that of training was divided.
        ranks: The processes of this job, all of which call this.

    Raises:
        CheckpointError: On all ranks, if the model of the checkpoint has other weights, with name, type and shape of
            each, or it is damaged.
    """
    expected = describe_model(modules, ranks)

    def compare() -> None:
        settings = checkpoint.manifest()["settings"]
        found = {name: value for name, value in settings.items() if name.startswith("model/")}
        require_same(expected, found, checkpoint, remedy=_REMEDY)

    ranks.on_main(compare)
    saved = checkpoint.open(ranks)
    state = ModelState(modules)
    outline = state.narrow(saved.outline_at("model"))
    rooms = state.make_room(outline)
    saved.fill(rooms)
    ranks.everywhere(lambda: state.load_state_dict(join_state(outline, rooms)))


def _find_source(path: Path) -> Checkpoint:
    if Checkpoint.is_name(path.name):
        checkpoint = Checkpoint(path)
        defect = checkpoint.defect()
        if defect is not None:
            raise CheckpointError(f"source_checkpoint={str(path)!r} cannot be loaded: {defect}")
        return checkpoint
    newest = find_complete(path)
    if newest is None:
        raise CheckpointError(
            f"source_checkpoint={str(path)!r} holds no checkpoint: name the folder that training saved into, or train"
        )
    return newest
