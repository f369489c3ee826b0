"""The checkpoint of a training run from which inference takes its weights."""

from pathlib import Path

from torch import nn

from d9d.loop.component.checkpoint import Checkpoint, CheckpointError
from d9d.loop.component.checkpointer import find_complete, require_same
from d9d.loop.component.state_tree import describe_state

_REMEDY = "Build the model that was trained, or name another source_checkpoint."


def find_source(path: Path) -> Checkpoint:
    """Find the checkpoint that a path means.

    Args:
        path: One checkpoint, or the folder of a training run, whose newest complete checkpoint is meant.

    Returns:
        A complete checkpoint.

    Raises:
        CheckpointError: If there is none.
    """
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


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Load the weights of a training run, and nothing else of it.

    Args:
        checkpoint: The checkpoint.
        model: The model that the weights go into.

    Raises:
        CheckpointError: If the model of the checkpoint has other weights, with name, type and shape of each.
    """
    expected = describe_state({"model": model.state_dict()})
    settings = checkpoint.manifest()["settings"]
    found = {name: value for name, value in settings.items() if name.startswith("model/")}
    require_same(expected, found, checkpoint, remedy=_REMEDY)
    model.load_state_dict(checkpoint.read("model")["model"])
