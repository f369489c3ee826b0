"""When checkpoints are taken, and which one a job goes on from."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.checkpoint.checkpoint_folder import find_complete
from d9d.loop.component.checkpoint.checkpoint_settings import find_differences, require_same
from d9d.loop.component.checkpoint.checkpoint_writer import CheckpointWriter, SharedState
from d9d.loop.component.checkpoint.folder_lock import FolderLock
from d9d.loop.component.checkpoint.save_schedule import SaveSchedule
from d9d.loop.component.checkpoint.state_tree import describe_state
from d9d.loop.component.ranks import ALONE, Ranks
from d9d.loop.config import CheckpointingConfig

logger = logging.getLogger(__name__)

_REMEDY = "Restore these settings to go on from it, or name another checkpointing.folder to begin anew."


@dataclasses.dataclass(frozen=True)
class _Saving:
    """What takes part in saving, where there is any."""

    config: CheckpointingConfig
    lock: FolderLock
    schedule: SaveSchedule
    writer: CheckpointWriter


class Checkpointer:
    """Saves the state of a job from time to time, and gives it back to the job when it is run again.

    As a context it lasts as long as the loop: at the end, the last save is complete, or its failure is raised.

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
        self._stepper = stepper
        self._state = state
        self._settings = settings
        self._notes = notes or {}
        self._ranks = ranks
        self._num_steps_saved: int | None = None
        self._saving: _Saving | None = None
        if config is not None:
            write = functools.partial(Checkpoint.write, settings=settings, notes=notes)
            self._saving = _Saving(
                config=config,
                lock=FolderLock(config.folder),
                schedule=SaveSchedule(config, stepper, ranks),
                writer=CheckpointWriter(config, state, ranks, write),
            )

    def resume(self) -> bool:
        """Take the folder, and go on from the newest complete checkpoint, if there is one.

        Returns:
            Whether there is.

        Raises:
            CheckpointError: On all ranks, if another job uses the folder; if there are checkpoints and none is
                complete; or the newest complete one belongs to other settings.
        """
        if self._saving is None:
            return False
        self._ranks.on_main(self._saving.lock.acquire)
        try:
            return self._load_newest(self._saving)
        except BaseException:
            self._saving.lock.release()
            raise

    def save_if_due(self, *, now: bool = False) -> None:
        """Save the state when a period, or the last step, has been completed; then remove surplus ones.

        Args:
            now: Whether to save in any case, and to wait until that is on disk, since the job is about to stop.

        Raises:
            CheckpointError: As `save`.
            StateError: As `save`.
        """
        if now:
            self.save()
            self.wait()
        elif self._saving is not None and self._saving.schedule.is_due():
            self.save()

    def save(self) -> None:
        """Save the state as it is between two steps, due or not; nothing where this step is saved already.

        Between two steps is where the loop itself saves, and a handler of `train.step.pre` or `inference.step.pre`;
        later in a step, the state is no longer that of the steps which are complete. With `asynchronous` this returns
        when the state is copied, and `wait` when it is on disk.

        Raises:
            CheckpointError: On all ranks, if it cannot be written, or the save before, beside the loop, could not.
            StateError: On all ranks, if the state holds what a checkpoint cannot keep.
        """
        num_steps = self._stepper.current_step
        if self._saving is None or self._num_steps_saved == num_steps:
            return
        self._saving.writer.save(num_steps)
        self._num_steps_saved = num_steps
        self._saving.schedule.saved()

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            CheckpointError: On all ranks, if it could not be written.
            StateError: On all ranks, if the state held what a checkpoint cannot keep.
        """
        if self._saving is None:
            return
        try:
            self._saving.writer.wait()
        except BaseException:
            self._num_steps_saved = None
            raise

    def __enter__(self) -> Self:
        """Begin the loop."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the loop; where it has failed, nothing waits, and a save that goes on is left to its end."""
        if self._saving is None:
            return
        try:
            if error is None:
                self.wait()
        finally:
            # Whoever came next would remove what is still written.
            if not self._saving.writer.is_writing:
                self._saving.lock.release()

    def _load_newest(self, saving: _Saving) -> bool:
        # A shared file system may show the others an older state of the folder.
        checkpoint = self._ranks.on_main(lambda: self._find(saving.config))
        if checkpoint is None:
            return False
        self._state.load(checkpoint.open(self._ranks))
        if self._ranks.is_main:
            self._tell(checkpoint)
        self._num_steps_saved = checkpoint.num_steps
        # A process that was killed after its last save has left this to do, and no save may follow.
        saving.writer.remove_surplus()
        return True

    def _find(self, config: CheckpointingConfig) -> Checkpoint | None:
        checkpoint = find_complete(config.folder)
        if checkpoint is not None:
            require_same(self._settings, checkpoint.manifest()["settings"], checkpoint.path, remedy=_REMEDY)
        return checkpoint

    def _tell(self, checkpoint: Checkpoint) -> None:
        """Say what the job goes on from, and which settings are others now that may be."""
        found = checkpoint.manifest()
        differences = find_differences(
            describe_state(self._notes), describe_state({name: found[name] for name in self._notes if name in found})
        )
        logger.info("resumed from %s%s", checkpoint.path, "".join(f"\n  {line}" for line in differences))
