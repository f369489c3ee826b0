"""Where the weights of a run come from, if not from the model provider or a checkpoint of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import LoopConfig

if TYPE_CHECKING:
    from d9d.loop.component.checkpoint.source_checkpoint import WeightSource


def find_source(config: LoopConfig, ranks: Ranks) -> "WeightSource | None":
    """Find the weights that a configuration names.

    Args:
        config: Names them, or none.
        ranks: The processes of the job, all of which call this.

    Returns:
        The weights, which are complete; `None` where none are named.

    Raises:
        CheckpointError: On all ranks, if they are not there.
    """
    if config.source_checkpoint is None:
        return None
    from d9d.loop.component.checkpoint import source_checkpoint  # noqa: PLC0415 -- it loads torch's checkpoints

    return source_checkpoint.find_source(config.source_checkpoint, ranks)


def find_initial_source(config: LoopConfig, ranks: Ranks) -> "WeightSource | None":
    """Find the weights that a run begins with, unless it goes on from a checkpoint of its own.

    Args:
        config: Names them, or none, and the folder of the run's own checkpoints.
        ranks: The processes of the job, all of which call this.

    Returns:
        As `find_source`.

    Raises:
        CheckpointError: On all ranks, if they are needed and are not there.
    """
    own = config.checkpointing
    if own is not None and ranks.on_main(lambda: bool(Checkpoint.list_in(own.folder))):
        return None
    return find_source(config, ranks)


def load_source(source: "WeightSource | None", modules: Sequence[nn.Module], ranks: Ranks) -> None:
    """Load weights, if there are any to load.

    Args:
        source: The weights.
        modules: The stages of the model that this process holds.
        ranks: The processes of the job, all of which call this.

    Raises:
        CheckpointError: On all ranks, if they are those of another model, or damaged.
    """
    if source is not None:
        from d9d.loop.component.checkpoint import source_checkpoint  # noqa: PLC0415 -- it loads torch's checkpoints

        source_checkpoint.load_weights(source, modules, ranks)


def identify(source: "WeightSource | None") -> str | None:
    """Return what tells weights from all others, if there are any."""
    if source is None:
        return None
    from d9d.loop.component.checkpoint import source_checkpoint  # noqa: PLC0415 -- it loads torch's checkpoints

    return source_checkpoint.identify_source(source)
