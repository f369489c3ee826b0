"""When the state of a job is saved, and which checkpoint it resumes from."""

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from d9d.core.device import copy_to_host, has_streams
from d9d.core.stepper import Stepper
from d9d.core.tensor_tree import map_tensors
from d9d.loop.component.checkpoint.dcp import SavedState
from d9d.loop.component.checkpoint.files import CheckpointError, FolderLock, remove_staging_directories
from d9d.loop.component.checkpoint.state_dict import describe_state
from d9d.loop.component.checkpoint.storage import Checkpoint, find_complete, find_differences, require_same
from d9d.loop.component.ranks import ALONE, Ranks, or_checkpoint_exception
from d9d.loop.config import CheckpointingConfig

_NICENESS = 10


class BackgroundWork:
    """Does one piece of work at a time in a thread of its own, which outlives a loop that fails until it is done."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a piece of work is not done yet."""
        return self._running is not None and not self._running.done()

    def start(self, work: Callable[[], None]) -> None:
        """Begin a piece of work, after `wait` has returned for the one before.

        Args:
            work: Speaks to other processes only through a group that nothing else uses.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                max_workers=1, thread_name_prefix="d9d-background", initializer=_begin, initargs=(_device(),)
            )
        self._running = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for the piece of work that was begun, if there is one whose end nobody has waited for.

        Raises:
            BaseException: What it raised.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _device() -> int | None:
    return torch.accelerator.current_device_index() if torch.accelerator.is_available() else None


def _begin(device: int | None) -> None:
    """Have this thread use the device of the loop, and what time of the processors the loop leaves."""
    if device is not None:  # or it would be the first one, on every process of the machine
        torch.accelerator.set_device_index(device)
    if sys.platform == "linux":  # which alone has priorities of threads
        with contextlib.suppress(OSError):  # some sandboxes forbid it, and it is a courtesy
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class HostSnapshot:
    """Copies a state, again and again, into memory on the host that is kept from one time to the next.

    Nothing waits for an accelerator: its copies go into pinned memory, in the order of its other work, so that the
    steps after them change nothing in what is copied.
    """

    def __init__(self) -> None:
        self._rooms: list[torch.Tensor] = []
        self._copied: list[torch.Event] = []

    def take(self, state: Any) -> Any:
        """Copy a state; the one that was copied before is overwritten.

        Args:
            state: As for `split_state`; parts of `DTensor`s are copied where they are.

        Returns:
            A state of the same kind, which can be read once `wait` has returned.
        """
        known = iter(self._rooms)
        rooms: list[torch.Tensor] = []
        devices: set[torch.device] = set()

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            devices.add(tensor.device)
            rooms.append(_copied(tensor.detach(), next(known, None)))
            return rooms[-1]

        copied = map_tensors(state, copy)
        self._rooms = rooms
        streams = [torch.accelerator.current_stream(device) for device in devices if has_streams(device)]
        self._copied = [stream.record_event() for stream in streams]
        return copied

    def wait(self) -> None:
        """Wait until the last copy is complete."""
        for event in self._copied:
            event.synchronize()


def _copied(tensor: torch.Tensor, room: torch.Tensor | None) -> torch.Tensor:
    if room is not None and _fits(room, tensor):
        copy_to_host(_local(tensor), out=_local(room))
        return room
    return copy_to_host(tensor)


def _fits(room: torch.Tensor, tensor: torch.Tensor) -> bool:
    if (type(room), room.shape, room.dtype) != (type(tensor), tensor.shape, tensor.dtype):
        return False
    if isinstance(room, DTensor) and isinstance(tensor, DTensor):
        return room.device_mesh == tensor.device_mesh and room.placements == tensor.placements
    return True


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


_PERIOD_OF_CLOCK_STEPS = 5
_SECONDS_PER_MINUTE = 60.0


class SaveSchedule:
    """Says when a save is due: every few steps, every few minutes, and after the last step; on all processes alike.

    The clock of the main process counts the minutes. Every few steps it begins to tell the others whether they have
    passed, and all read that one step later, when it has arrived while they were busy.

    Args:
        config: Holds the periods.
        stepper: Knows how many steps are complete.
        ranks: The processes of the job, all of which call each method at once.
    """

    def __init__(self, config: CheckpointingConfig, stepper: Stepper, ranks: Ranks) -> None:
        self._period_steps = config.period_steps
        self._period_seconds = None if config.period_minutes is None else config.period_minutes * _SECONDS_PER_MINUTE
        self._stepper = stepper
        self._ranks = ranks if self._period_seconds is None else ranks.with_own_group()
        self._has_passed = torch.zeros((), dtype=torch.uint8)
        self._telling: distributed.Work | None = None
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Say whether to save now; called once after each step."""
        num_steps = self._stepper.current_step
        is_time = self._period_seconds is not None and self._is_time(num_steps, self._period_seconds)
        is_step = self._period_steps is not None and num_steps % self._period_steps == 0
        return is_time or is_step or self._stepper.is_finished

    def saved(self) -> None:
        """Count the minutes from now on."""
        self._told()  # it is about the time before
        self._saved_at = time.monotonic()

    def _is_time(self, num_steps: int, period_seconds: float) -> bool:
        has_passed = time.monotonic() - self._saved_at >= period_seconds
        if self._ranks.is_alone:
            return has_passed
        told = self._told()
        if num_steps % _PERIOD_OF_CLOCK_STEPS == 0:
            self._has_passed.fill_(has_passed)
            self._telling = distributed.broadcast(self._has_passed, group=self._ranks.group, group_src=0, async_op=True)
        return told

    def _told(self) -> bool:
        """Return what the main process has told since the last call, if anything."""
        telling, self._telling = self._telling, None
        if telling is None:
            return False
        telling.wait()
        return bool(self._has_passed)


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
        self._writers = ranks.with_own_group() if config.asynchronous else ranks
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
        snapshot = self._ranks.run_on_all_ranks(lambda: self._snapshot.take(state))
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
            remove_staging_directories(self._config.folder)
            complete = [found for found in Checkpoint.list_in(self._config.folder) if found.defect() is None]
            for surplus in complete[self._config.num_to_keep :]:
                surplus.remove()

        (ranks or self._ranks).run_on_rank_zero(remove)

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
        is_stopping: Whether the ranks have agreed to stop after the step that was just completed.
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
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stepper = stepper
        self._is_stopping = is_stopping
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
        self._ranks.run_on_rank_zero(self._saving.lock.acquire)
        try:
            return self._load_newest(self._saving)
        except BaseException:
            self._saving.lock.release()
            raise

    def step_done(self) -> None:
        """Save the state when a period, or the last step, has been completed, or the job is about to stop.

        Before a stop this waits until the checkpoint is on disk.

        Raises:
            CheckpointError: As `save`.
            StateError: As `save`.
        """
        if self._is_stopping():
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
        checkpoint = self._ranks.run_on_rank_zero(lambda: self._find(saving.config))
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
