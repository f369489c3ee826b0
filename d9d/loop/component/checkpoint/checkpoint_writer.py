"""One save after the other, while the loop waits or beside it."""

import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from d9d.loop.component.checkpoint.background_work import BackgroundWork
from d9d.loop.component.checkpoint.checkpoint import Checkpoint
from d9d.loop.component.checkpoint.host_snapshot import HostSnapshot
from d9d.loop.component.checkpoint.saved_state import CheckpointError, SavedState
from d9d.loop.component.checkpoint.transient_folder import remove_transient
from d9d.loop.component.ranks import Ranks, or_checkpoint_exception
from d9d.loop.config import CheckpointingConfig

logger = logging.getLogger(__name__)

_NOTABLE_WAIT_SECONDS = 1.0


class SharedState(Protocol):
    """What is saved: the state of a job, of which each rank tells and takes its part."""

    def state_dict(self) -> dict[str, Any]:
        """Return what this rank holds, under names that no other rank uses for anything else."""

    def differing(self) -> set[str]:
        """Return the paths of tensors that several ranks hold and need not be the same."""

    def load(self, saved: SavedState) -> None:
        """Go on from what was saved."""


class CheckpointWriter:
    """Writes the checkpoints of a job, never two at once, and removes those that are surplus.

    Args:
        config: Where, how, and how many to keep.
        state: The state of the job.
        ranks: The processes of the job, all of which call each method at once.
        write: `Checkpoint.write`, with what every checkpoint of the job says of itself.
    """

    def __init__(
        self, config: CheckpointingConfig, state: SharedState, ranks: Ranks, write: Callable[..., Checkpoint]
    ) -> None:
        self._config = config
        self._state = state
        self._ranks = ranks
        self._write_checkpoint = write
        # What is written beside the loop must not be spoken of where the loop speaks.
        self._writers = ranks.apart() if config.asynchronous else ranks
        self._snapshot = HostSnapshot()
        self._background = BackgroundWork()

    @property
    def is_writing(self) -> bool:
        """Whether a save goes on beside the loop."""
        return self._background.is_running

    def save(self, num_steps: int) -> None:
        """Save the state as it is now, when the save before is complete.

        Args:
            num_steps: How many steps are complete.

        Raises:
            CheckpointError: On all ranks, if it cannot be written, or the one before could not.
            StateError: On all ranks, if the state holds what a checkpoint cannot keep, or that of the one before did.
        """
        self._wait_for_last(num_steps)
        state, differing = self._state.state_dict(), self._state.differing()
        if not self._config.asynchronous:
            self._write(num_steps, state, differing)
            return
        snapshot = self._ranks.everywhere(lambda: self._snapshot.take(state))
        self._background.start(functools.partial(self._write_beside, num_steps, snapshot, differing))

    def wait(self) -> None:
        """Wait until the last save is complete.

        Raises:
            CheckpointError: On all ranks, if it could not be written.
            StateError: On all ranks, if the state held what a checkpoint cannot keep.
        """
        self._background.wait()

    def remove_surplus(self, ranks: Ranks | None = None) -> None:
        """Keep the newest checkpoints, and remove older ones and what killed processes left of others.

        Args:
            ranks: How the processes speak; `None` means as the loop does.
        """

        def remove() -> None:
            remove_transient(self._config.folder)
            complete = [found for found in Checkpoint.list_in(self._config.folder) if found.defect() is None]
            for surplus in complete[self._config.num_to_keep :]:
                surplus.remove()

        (ranks or self._ranks).on_main(remove)

    def _wait_for_last(self, num_steps: int) -> None:
        was_writing, since = self._background.is_running, time.monotonic()
        self._background.wait()
        seconds = time.monotonic() - since
        if was_writing and seconds > _NOTABLE_WAIT_SECONDS and self._ranks.is_main:
            logger.warning(
                "step %d waited %.1f seconds until the checkpoint before was written: save less often, or to a faster "
                "disk",
                num_steps,
                seconds,
            )

    def _write_beside(self, num_steps: int, snapshot: Mapping[str, Any], differing: Collection[str]) -> None:
        self._snapshot.wait()
        try:
            self._write(num_steps, snapshot, differing)
        except Exception:
            # Told at once, and raised where the loop can end for it.
            logger.exception("the checkpoint after %d steps failed; the next save, or the end, raises this", num_steps)
            raise

    def _write(self, num_steps: int, state: Mapping[str, Any], differing: Collection[str]) -> None:
        try:
            saved = self._write_checkpoint(
                self._config.folder, num_steps, state, ranks=self._writers, differing=differing
            )
        except or_checkpoint_exception(OSError) as error:
            raise CheckpointError(
                f"the checkpoint after {num_steps} steps could not be written to {self._config.folder} "
                f"({_cause(error)}); those before it are intact: mend that, and run again"
            ) from error
        if self._ranks.is_main:
            logger.info("saved %s", saved.path)
        self.remove_surplus(self._writers)


def _cause(error: BaseException) -> str:
    """Say what went wrong, which torch wraps once for each rank."""
    failures: dict[int, Any] | None = getattr(error, "failures", None)
    if failures is not None:
        told = [f"rank {rank}: {wrapped}" for rank, (wrapped, _) in failures.items()]
        blind = [rank for rank, (wrapped, _) in failures.items() if isinstance(wrapped, FileNotFoundError)]
        if blind and 0 not in failures:
            told.append(f"rank 0 sees that folder, and rank {blind[0]} does not: all processes need the same one")
        return "; ".join(told)
    return str(error)
