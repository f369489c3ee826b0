"""When checkpoints are taken, which are kept, and which one a job goes on from."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint import Checkpoint, remove_transient
from d9d.loop.component.checkpoint_folder import find_complete
from d9d.loop.component.ranks import ALONE, Ranks, or_checkpoint_exception
from d9d.loop.component.saved_state import CheckpointError, SavedState
from d9d.loop.config import CheckpointingConfig

logger = logging.getLogger(__name__)

_ABSENT = "absent"
_NUM_DIFFERENCES_SHOWN = 10
_REMEDY = "Restore these settings to go on from it, or name another checkpointing.folder to begin anew."


class SharedState(Protocol):
    """What a checkpointer saves: the state of a job, of which each rank tells and takes its part."""

    def state_dict(self) -> dict[str, Any]:
        """Return what this rank holds, under names that no other rank uses for anything else."""

    def differing(self) -> set[str]:
        """Return the paths of tensors that several ranks hold and need not be the same."""

    def load(self, saved: SavedState) -> None:
        """Go on from what was saved."""


class Checkpointer:
    """Saves the state of a job every few steps, and gives it back to the job when it is run again.

    Args:
        config: Where, how often, and how many to keep; `None` saves nothing.
        stepper: Knows how many steps are complete.
        state: The state of the job.
        settings: What a checkpoint must share with this job to be gone on from, flat and in JSON's types; the same on
            all ranks.
        ranks: The processes of the job, all of which call each method at once.
        notes: What people may want to know of a checkpoint besides, such as the mesh, in JSON's types.
    """

    def __init__(
        self,
        config: CheckpointingConfig | None,
        *,
        stepper: Stepper,
        state: SharedState,
        settings: Mapping[str, Any],
        ranks: Ranks = ALONE,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = config
        self._stepper = stepper
        self._state = state
        self._settings = settings
        self._ranks = ranks
        self._notes = notes

    def resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one.

        Raises:
            CheckpointError: On all ranks, if there are checkpoints and none is complete, or the newest complete one
                belongs to other settings.
        """
        config = self._config
        if config is None:
            return
        # A shared file system may show the others an older state of the folder.
        checkpoint = self._ranks.on_main(lambda: self._find(config))
        if checkpoint is None:
            return
        self._state.load(checkpoint.open(self._ranks))
        if self._ranks.is_main:
            logger.info("resumed from %s", checkpoint.path)
        # A process that was killed after its last save has left this to do, and no save may follow.
        self._remove_surplus(config)

    def save_if_due(self) -> None:
        """Save the state when a period of steps, or the last step, has been completed; then remove surplus ones.

        Raises:
            CheckpointError: On all ranks, if it cannot be written.
            StateError: On all ranks, if the state holds what a checkpoint cannot keep.
        """
        if self._config is None:
            return
        num_steps = self._stepper.current_step
        if num_steps % self._config.period_steps and not self._stepper.is_finished:
            return
        try:
            saved = Checkpoint.write(
                self._config.folder,
                num_steps,
                self._state.state_dict(),
                self._settings,
                ranks=self._ranks,
                differing=self._state.differing(),
                notes=self._notes,
            )
        except or_checkpoint_exception(OSError) as error:
            raise CheckpointError(
                f"the checkpoint after {num_steps} steps could not be written to {self._config.folder} "
                f"({_cause(error)}); those before it are intact: mend that, and run again"
            ) from error
        if self._ranks.is_main:
            logger.info("saved %s", saved.path)
        self._remove_surplus(self._config)

    def _find(self, config: CheckpointingConfig) -> Checkpoint | None:
        checkpoint = find_complete(config.folder)
        if checkpoint is not None:
            require_same(self._settings, checkpoint.manifest()["settings"], checkpoint, remedy=_REMEDY)
        return checkpoint

    def _remove_surplus(self, config: CheckpointingConfig) -> None:
        """Keep the newest checkpoints, and remove older ones and what killed processes left of others."""

        def remove() -> None:
            remove_transient(config.folder)
            complete = [found for found in Checkpoint.list_in(config.folder) if found.defect() is None]
            for surplus in complete[config.num_to_keep :]:
                surplus.remove()

        self._ranks.on_main(remove)


def _cause(error: BaseException) -> str:
    """Say what went wrong, which torch wraps once for each rank."""
    failures: dict[int, Any] | None = getattr(error, "failures", None)
    if failures is not None:
        return "; ".join(f"rank {rank}: {wrapped}" for rank, (wrapped, _) in failures.items())
    return str(error)


def require_same(expected: Mapping[str, Any], found: Mapping[str, Any], checkpoint: Checkpoint, *, remedy: str) -> None:
    """Refuse a checkpoint that belongs to other settings.

    Args:
        expected: The settings of this job.
        found: The settings of the checkpoint.
        checkpoint: The checkpoint.
        remedy: What to do about differences.

    Raises:
        CheckpointError: If any of them differ, with both values of each.
    """
    differences = [
        f"{name} is {expected.get(name, _ABSENT)!r} here and {found.get(name, _ABSENT)!r} in the checkpoint"
        for name in dict.fromkeys([*expected, *found])
        if expected.get(name, _ABSENT) != found.get(name, _ABSENT)
    ]
    if not differences:
        return
    shown = differences[:_NUM_DIFFERENCES_SHOWN]
    if len(differences) > len(shown):
        shown.append(f"… and {len(differences) - len(shown)} more")
    raise CheckpointError(
        f"{checkpoint.path} belongs to a job of other settings:\n  " + "\n  ".join(shown) + f"\n{remedy}"
    )
