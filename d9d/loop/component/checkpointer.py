"""When checkpoints are taken, which are kept, and which one a job goes on from."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from d9d.core.protocol import Stateful
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint import Checkpoint, CheckpointError, newest_complete, remove_transient
from d9d.loop.config import CheckpointingConfig, ConfigurationError

logger = logging.getLogger(__name__)

_ABSENT = "absent"
_NUM_DIFFERENCES_SHOWN = 10
_REMEDY = "Restore these settings to go on from it, or name another checkpointing.folder to begin anew."


class Checkpointer:
    """Saves the state of a job every few steps, and gives it back to the job when it is run again.

    Args:
        config: Where, how often, and how many to keep; `None` saves nothing.
        stepper: Knows how many steps are complete.
        state: The state of the job.
        settings: What a checkpoint must share with this job to be gone on from, flat and in JSON's types.
    """

    def __init__(
        self, config: CheckpointingConfig | None, *, stepper: Stepper, state: Stateful, settings: Mapping[str, Any]
    ) -> None:
        self._config = config
        self._stepper = stepper
        self._state = state
        self._settings = settings

    def resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one.

        Raises:
            CheckpointError: If there are checkpoints and none is complete, or the newest complete one belongs to other
                settings.
        """
        if self._config is None:
            return
        checkpoint = find_complete(self._config.folder)
        if checkpoint is not None:
            require_same(self._settings, checkpoint.manifest()["settings"], checkpoint, remedy=_REMEDY)
            self._state.load_state_dict(checkpoint.read())
            logger.info("resumed from %s", checkpoint.path)
            # A process that was killed after its last save has left this to do, and no save may follow.
            self._remove_surplus(self._config)

    def save_if_due(self) -> None:
        """Save the state when a period of steps, or the last step, has been completed; then remove surplus ones.

        Raises:
            CheckpointError: If it cannot be written.
            StateError: If the state holds what a checkpoint cannot keep.
        """
        if self._config is None:
            return
        num_steps = self._stepper.current_step
        if num_steps % self._config.period_steps and not self._stepper.is_finished:
            return
        try:
            saved = Checkpoint.write(self._config.folder, num_steps, self._state.state_dict(), self._settings)
        except (OSError, CheckpointException) as error:  # torch's is no Exception
            raise CheckpointError(
                f"the checkpoint after {num_steps} steps could not be written to {self._config.folder} "
                f"({_cause(error)}); those before it are intact: mend that, and run again"
            ) from error
        logger.info("saved %s", saved.path)
        self._remove_surplus(self._config)

    def _remove_surplus(self, config: CheckpointingConfig) -> None:
        """Keep the newest checkpoints, and remove older ones and what killed processes left of others."""
        remove_transient(config.folder)
        complete = [found for found in Checkpoint.list_in(config.folder) if found.defect() is None]
        for surplus in complete[config.num_to_keep :]:
            surplus.remove()


def _cause(error: OSError | CheckpointException) -> BaseException:
    """Return what went wrong, which torch wraps once for each rank."""
    if isinstance(error, CheckpointException):
        return next((wrapped for wrapped, _ in error.failures.values()), error)
    return error


def prepare_folder(folder: Path) -> None:
    """Find out now, and not at the first save, whether checkpoints can be written.

    Args:
        folder: Where a job will keep its checkpoints; made if it is not there.

    Raises:
        ConfigurationError: If it cannot be made or written to, or something else bears the name of a checkpoint.
    """
    named = f"checkpointing.folder={str(folder)!r}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(f"{named} cannot be written to ({error}): name another folder, or free it") from error
    for path in folder.iterdir():
        if Checkpoint.is_name(path.name) and (path.is_symlink() or not path.is_dir()):
            raise ConfigurationError(f"{named} holds {path.name}, which is no folder: move it away")


def find_complete(folder: Path) -> Checkpoint | None:
    """Find the newest complete checkpoint, and warn of newer ones that are not.

    Args:
        folder: Where a job keeps its checkpoints.

    Returns:
        The checkpoint, or `None` if there is none at all.

    Raises:
        CheckpointError: If there are checkpoints and none is complete.
    """
    checkpoint, defects = newest_complete(folder)
    if checkpoint is None and defects:
        raise CheckpointError(
            "no checkpoint can be loaded:\n  " + "\n  ".join(defects) + "\nRestore one, or remove them to begin anew."
        )
    for defect in defects:
        logger.warning("%s; going back to %s", defect, checkpoint.path if checkpoint else None)
    return checkpoint


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
