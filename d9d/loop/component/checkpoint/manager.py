"""When the state of a job is saved, and which checkpoint it resumes from."""

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed.checkpoint.api import CheckpointException

from d9d.core.device import has_streams
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.files import CheckpointError, FolderLock, remove_staging_directories
from d9d.loop.component.checkpoint.job_state import JobState
from d9d.loop.component.checkpoint.results import EvaluationResults, Scores
from d9d.loop.component.checkpoint.resume import (
    FROZEN_WEIGHTS,
    NO_CHANGES,
    Changes,
    Origin,
    abandon_newer,
    compare,
    data_position_of,
    describe_origin,
    find_origin,
    require_resumable,
)
from d9d.loop.component.checkpoint.snapshot import HostSnapshot
from d9d.loop.component.checkpoint.state_dict import describe_state
from d9d.loop.component.checkpoint.storage import Checkpoint, describe_cause, find_differences
from d9d.loop.component.ranks import ALONE, Ranks
from d9d.loop.component.sampler import Epochs, SequentialSteps
from d9d.loop.config import CheckpointingConfig, ConfigurationError, ResumeConfig

logger = logging.getLogger(__name__)

_NOTABLE_WAIT_SECONDS = 1.0
_SECONDS_PER_MINUTE = 60.0
_BACKGROUND_NICENESS = 10


class Checkpointer:
    """Saves the state of a job, and loads it when the job is run again.

    As a context it lasts as long as the loop: at the end the last save is complete, or its error is raised.

    Args:
        config: Where and how often to save, and how many checkpoints to keep; `None` saves nothing.
        stepper: Counts the steps.
        state: The state of the job.
        settings: What a checkpoint must share with this job to be resumed from: flat, in JSON's types, and the same on
            all ranks.
        ranks: The ranks of the job, all of which call each method.
        job_metadata: More facts about the job for the manifest, such as the mesh, in JSON's types.
        resume: From which checkpoint to resume, and what may differ from it; by default the newest, and nothing.
        require_savable: Called before each save; raises, on all ranks, if the state must not be saved.
        epochs: The passes over the data; `None` if it has none.
        steps: Which samples each step of inference takes; `None` for training.
        results: The results of evaluations; `None` for a run that has no evaluations.
    """

    def __init__(
        self,
        config: CheckpointingConfig | None,
        *,
        stepper: Stepper,
        state: JobState,
        settings: Mapping[str, Any],
        ranks: Ranks = ALONE,
        job_metadata: Mapping[str, Any] | None = None,
        resume: ResumeConfig | None = None,
        require_savable: Callable[[], None] = lambda: None,
        epochs: Epochs | None = None,
        steps: SequentialSteps | None = None,
        results: EvaluationResults | None = None,
    ) -> None:
        self._config = config
        self._stepper = stepper
        self._state = state
        self._settings = settings
        self._ranks = ranks
        self._job_metadata = job_metadata or {}
        self._require_savable = require_savable
        self._resume = ResumeConfig() if resume is None else resume
        self._order = epochs if steps is None else steps
        self._lineage: list[dict[str, Any]] = []
        self._num_steps_saved: int | None = None
        self._stop_reason: str | None = None
        self._pending_evaluations: list[str] = []
        self._results = results
        self._unannounced: Checkpoint | None = None
        self._is_asked_for = False
        self._is_clock = config is not None and ranks.is_main  # minutes go by the clock of rank 0
        self._executor: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        if config is None:
            return
        self._lock = FolderLock(config.folder)
        self._schedule = SaveSchedule(config, stepper, epochs)
        # A save in the background must not use the process group of the loop.
        self._writers = ranks.with_own_group() if config.asynchronous else ranks
        self._snapshot = HostSnapshot()

    @property
    def is_writing(self) -> bool:
        """Whether a save is running in the background."""
        return self._running is not None and not self._running.done()

    @property
    def is_configured(self) -> bool:
        """Whether the run has checkpoints at all."""
        return self._config is not None

    @property
    def next_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that `save` would write now; `None` if there is nothing to do."""
        if self._config is None or self._num_steps_saved == self._stepper.current_step:
            return None
        return Checkpoint.of_step(self._config.folder, self._stepper.current_step)

    def resume(self) -> Checkpoint | None:
        """Lock the folder, and load the checkpoint that the run starts from, if there is one.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: On all ranks, if another job uses the folder, if there are checkpoints and none is
                complete, or if the one to resume from differs in a setting that must not.
            ConfigurationError: On all ranks, if the dataset has become too small.
        """
        config = self._config
        if config is None:
            return None
        self._state.begin()
        self._ranks.run_on_rank_zero(self._lock.acquire)
        try:
            found = self._find_origin_together(config)
            if found is None:
                return None
            origin, changes = found
            if origin.is_branch and self._resume.parts != "everything":
                self._load_parts(origin.checkpoint)
            else:
                self._load(config, origin, changes)
        except BaseException:
            self._lock.release()
            raise
        return origin.checkpoint

    def load_weights(self) -> None:
        """Load the weights of the checkpoint that the run would start from, if there is one, and nothing else.

        Raises:
            CheckpointError: On all ranks, if the run cannot resume from it.
        """
        found = None if self._config is None else self._find_origin_together(self._config)
        if found is not None:
            self._state.load(found[0].checkpoint.open(self._ranks), parts=["model"])

    def _find_origin_together(self, config: CheckpointingConfig) -> tuple[Origin, Changes] | None:
        # A shared file system may show an older state of the folder to other ranks.
        return self._ranks.run_on_rank_zero(functools.partial(self._find_origin, config, self._state.aliases()))

    def _load(self, config: CheckpointingConfig, origin: Origin, changes: Changes) -> None:
        """Continue the run of a checkpoint."""
        checkpoint = origin.checkpoint
        if self._order is not None:
            position = self._ranks.run_on_rank_zero(functools.partial(data_position_of, checkpoint))
            if position is not None:
                self._order.resume_at(position)
        if isinstance(self._order, SequentialSteps):
            self._stepper.set_total_steps(self._order.num_steps)
        self._state.load(checkpoint.open(self._ranks), changes)
        self._lineage = self._ranks.run_on_rank_zero(
            functools.partial(describe_origin, checkpoint, changes, is_branch=origin.is_branch)
        )
        self._log_resumed(checkpoint, changes)
        if checkpoint.path.resolve().parent == config.folder.resolve():
            self._num_steps_saved = checkpoint.num_steps
            if origin.is_branch:
                self._ranks.run_on_rank_zero(functools.partial(abandon_newer, config.folder, checkpoint))
        if self._results is not None and config.keep_best is not None:
            self._results.resume(self._ranks.run_on_rank_zero(functools.partial(self._find_best, config)))
        # A job that was killed right after a save has left stale checkpoints, and no save may follow here.
        self._remove_stale(config, self._ranks, self._best_steps)

    def _load_parts(self, checkpoint: Checkpoint) -> None:
        """Start a new run with the weights of a checkpoint, and the moments of the optimizer if they are wanted."""
        parts = ["model"] if self._resume.parts == "weights" else ["model", "optimizer"]
        self._state.load(checkpoint.open(self._ranks), parts=parts)
        self._lineage = self._ranks.run_on_rank_zero(
            functools.partial(describe_origin, checkpoint, NO_CHANGES, is_branch=True)
        )
        if self._ranks.is_main:
            logger.info("took the %s of %s; the run starts at step 0", " and the ".join(parts), checkpoint.path)

    def stop_reason_of(self, checkpoint: Checkpoint) -> str | None:
        """Return why a handler has stopped the run of a checkpoint, unless this run continues it all the same.

        Args:
            checkpoint: The checkpoint that this run has resumed from.
        """
        manifest = checkpoint.manifest()
        has_more_steps = self._stepper.total_steps > manifest["settings"].get("total_steps", self._stepper.total_steps)
        is_new_run = self._stepper.current_step != checkpoint.num_steps
        return None if "stopped" in self._resume.allow or has_more_steps or is_new_run else manifest.get("stop_reason")

    def is_due(self, *, is_time_to_save: bool) -> bool:
        """Return whether a checkpoint is due after the step that was just completed.

        Args:
            is_time_to_save: Whether the ranks agreed, one step ago, that the minutes between two checkpoints have
                passed. It does not count if a save followed then.
        """
        if self._config is None:
            return False
        has_saved_since = self._num_steps_saved == self._stepper.current_step - 1
        return self._schedule.is_due() or (is_time_to_save and not has_saved_since)

    def stopped_by_handler(self, reason: str) -> None:
        """Record in the next checkpoint that a handler has ended the run.

        Args:
            reason: Its reason.
        """
        self._stop_reason = reason

    def postpone_evaluations(self, names: Sequence[str]) -> None:
        """Record in the next checkpoint which evaluations the resumed run begins with.

        Args:
            names: Their names.
        """
        self._pending_evaluations = [*names]

    def record_evaluation(self, name: str, metrics: Mapping[str, float]) -> bool:
        """Record the results of an evaluation in the checkpoint of this step.

        Args:
            name: The name of the evaluation.
            metrics: Its results by name, the same on all ranks.

        Returns:
            Whether a save is due, because the checkpoint of this step is now one of the best.

        Raises:
            ConfigurationError: If this evaluation does not report the metric of `keep_best`.
        """
        return self._results is not None and self._results.record(name, metrics)

    def load_best(self) -> Checkpoint:
        """Load the weights of the best complete checkpoint, and nothing else; `wait` comes before.

        Returns:
            The checkpoint.

        Raises:
            ConfigurationError: If `keep_best` is not set.
            CheckpointError: On all ranks, if no checkpoint has its metric, or the checkpoint cannot be loaded.
        """
        config = self._config
        if config is None or config.keep_best is None:
            raise ConfigurationError(
                "load_best needs checkpointing.keep_best, which says what the best checkpoint is: set it to "
                "KeepBest(metric=...)"
            )
        best = self._ranks.run_on_rank_zero(functools.partial(self._find_best, config))
        if not best:
            raise CheckpointError(
                f"no complete checkpoint in {config.folder} has a result {config.keep_best.metric!r} that is a number"
            )
        _, step = best[0]
        checkpoint = Checkpoint.of_step(config.folder, step)
        self._state.load(checkpoint.open(self._ranks), parts=["model"])
        return checkpoint

    def complete_evaluations(self) -> None:
        """Record in the checkpoint that the run has resumed from that its pending evaluations are done."""
        config = self._config
        if config is None or self._num_steps_saved != self._stepper.current_step:
            return
        checkpoint = Checkpoint.of_step(config.folder, self._stepper.current_step)
        changes = {"evaluations": self._results_of_this_step, "pending_evaluations": []}
        try:
            self._ranks.run_on_rank_zero(lambda: checkpoint.update_manifest(changes))
            self._remove_stale(config, self._ranks, self._best_steps)
        except OSError as error:
            raise CheckpointError(
                f"could not write the results of evaluations to {checkpoint.path} ({describe_cause(error)}); the "
                "checkpoint is intact: fix the cause and run again"
            ) from error

    def announce(self) -> tuple[bool, bool]:
        """Return what this rank knows, for the exchange with the others.

        Returns:
            Whether the minutes between two checkpoints have passed, by the clock of rank 0, and whether a save is
            running in the background of this rank.
        """
        self._is_asked_for = self._unannounced is not None
        has_time_passed = self._is_clock and self._schedule.has_time_passed
        return has_time_passed, self.is_writing

    def take_saved(self) -> Checkpoint | None:
        """Return the checkpoint that was saved in the background, once; call this when no rank is saving any more.

        Raises:
            CheckpointError: On all ranks, if it could not be written.
            StateError: On all ranks, if a checkpoint cannot hold the state.
        """
        if not self._is_asked_for:
            return None
        self._is_asked_for = False
        return self.wait()

    def save(self) -> Checkpoint | None:
        """Save the state between two steps, whether a save is due or not; do nothing if this step is saved already.

        Later in a step the state is no longer that of the complete steps. With `asynchronous` this returns when the
        state is copied; `wait` returns when it is on disk.

        Returns:
            The checkpoint if it is on disk; `None` if it is written in the background.

        Raises:
            CheckpointError: On all ranks, if it cannot be written, or the previous save in the background could not.
            StateError: On all ranks, if a checkpoint cannot hold the state, or that of the previous save.
            NonFiniteGradientsError: On all ranks, if `non_finite_gradients="stop"` has skipped a step: the checkpoint
                would contain it.
        """
        config, num_steps, checkpoint = self._config, self._stepper.current_step, self.next_checkpoint
        if config is None or checkpoint is None:
            return None
        self._require_savable()
        self.wait(warns=True)
        state = self._state.state_dict()
        write = functools.partial(
            self._write,
            config,
            num_steps,
            may_differ=self._state.may_differ(),
            best_steps=self._best_steps,
            job_metadata={
                **self._job_metadata,
                "stop_reason": self._stop_reason,
                "lineage": self._lineage,
                **({} if self._order is None else {"data_position": self._order.position_at(num_steps)}),
                "evaluations": self._results_of_this_step,
                "pending_evaluations": self._pending_evaluations,
            },
        )
        if config.asynchronous:
            snapshot = self._ranks.run_on_all_ranks(lambda: self._snapshot.take(state))
            self._executor = self._executor or _background_executor()
            self._running = self._executor.submit(self._write_in_background, num_steps, snapshot, write)
            self._unannounced = checkpoint
        else:
            write(state)
        self._num_steps_saved = num_steps
        self._schedule.restart_clock()
        return None if config.asynchronous else checkpoint

    def wait(self, *, warns: bool = False) -> Checkpoint | None:
        """Wait until the last save in the background is on disk.

        Args:
            warns: Whether to warn if a step waits for it noticeably.

        Returns:
            The checkpoint that was saved in the background, unless it was returned before.

        Raises:
            CheckpointError: On all ranks, if it could not be written.
            StateError: On all ranks, if a checkpoint cannot hold the state.
        """
        running, self._running = self._running, None
        saved, self._unannounced = self._unannounced, None
        if running is None:
            return None
        since, was_done = time.monotonic(), running.done()
        try:
            running.result()
        except BaseException:
            self._num_steps_saved = None
            raise
        seconds = time.monotonic() - since
        if warns and not was_done and seconds > _NOTABLE_WAIT_SECONDS and self._ranks.is_main:
            logger.warning(
                "step %d waited %.1f seconds for the previous checkpoint to be written: save less often, or to a "
                "faster disk",
                self._stepper.current_step,
                seconds,
            )
        return saved

    def __enter__(self) -> Self:
        """Enter the loop."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last save, unless the loop has failed: then a save in the background is left to complete."""
        if self._config is None:
            return
        try:
            if error is None:
                self.wait()
        finally:
            # Another job would remove the staging directory of a save that is still running.
            if not self.is_writing:
                self._lock.release()

    def prepare_first_save(self) -> None:
        """Allocate the memory of asynchronous saves after the first step, which takes longer than others anyway.

        Later it would stop the device in the middle of the run. Before the first step there is no optimizer state.
        """
        if self._config is None or not self._config.asynchronous:
            return
        self._snapshot.reserve(self._state.sharded_state())

    def _write_in_background(
        self, num_steps: int, snapshot: Mapping[str, Any], write: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._snapshot.wait()
        try:
            write(snapshot)
        except Exception:
            # Logged at once, and raised where it can end the loop.
            logger.exception(
                "checkpoint step-%d failed in the background; the loop raises this error after a later step",
                num_steps,
            )
            raise

    def _write(
        self,
        config: CheckpointingConfig,
        num_steps: int,
        state: Mapping[str, Any],
        *,
        may_differ: Collection[str],
        best_steps: Collection[int],
        job_metadata: Mapping[str, Any],
    ) -> None:
        try:
            Checkpoint.write(
                config.folder,
                num_steps,
                state,
                self._settings,
                ranks=self._writers,
                may_differ=may_differ,
                job_metadata=job_metadata,
            )
        except (OSError, CheckpointException) as error:
            raise CheckpointError(
                f"could not write checkpoint step-{num_steps} to {config.folder} ({describe_cause(error)}); earlier "
                "checkpoints are intact: fix the cause and run again"
            ) from error
        self._remove_stale(config, self._writers, best_steps)

    def _remove_stale(self, config: CheckpointingConfig, ranks: Ranks, best_steps: Collection[int]) -> None:
        """Remove the complete checkpoints that are not to be kept, and the staging directories of killed jobs."""

        def remove() -> None:
            remove_staging_directories(config.folder)
            for checkpoint in _complete_in(config.folder)[config.num_to_keep :]:
                is_kept = config.keep_every_steps is not None and checkpoint.num_steps % config.keep_every_steps == 0
                if not is_kept and checkpoint.num_steps not in best_steps:
                    checkpoint.remove()

        ranks.run_on_rank_zero(remove)

    @property
    def _best_steps(self) -> frozenset[int]:
        return frozenset() if self._results is None else self._results.best_steps

    @property
    def _results_of_this_step(self) -> dict[str, Any]:
        return {} if self._results is None else self._results.of_this_step()

    def _find_best(self, config: CheckpointingConfig) -> Scores:
        return [] if self._results is None else self._results.find_best(_complete_in(config.folder))

    def _find_origin(self, config: CheckpointingConfig, aliases: Collection[str]) -> tuple[Origin, Changes] | None:
        """Find the checkpoint that the run starts from, and what differs from it."""
        origin = find_origin(config.folder, self._resume)
        if origin is None:
            return None
        here, checkpoint = self._settings, origin.checkpoint
        there: Mapping[str, Any] = checkpoint.manifest()["settings"]
        here, there = (
            {name: each[name] for name in each if name not in aliases and not self._is_mapped(name)}
            for each in (here, there)
        )
        if origin.is_branch and self._resume.parts != "everything":
            parts = ("model/",) if self._resume.parts == "weights" else ("model/", "optimizer_class")
            here, there = ({name: each[name] for name in each if name.startswith(parts)} for each in (here, there))
        changes = require_resumable(
            compare(here, there), checkpoint.path, self._resume.allow, here.get("loop", "train")
        )
        changes = dataclasses.replace(changes, has_functions=any("/lr_lambdas/" in name for name in here))
        if not isinstance(self._order, SequentialSteps):  # otherwise the number of steps follows from the samples left
            self._require_steps(checkpoint)
        return origin, changes

    def _is_mapped(self, name: str) -> bool:
        """Return whether a setting describes weights, for which a mapping says what may differ."""
        is_of_weights = name.startswith("model/") or name.endswith("/num_parameters") or name == FROZEN_WEIGHTS
        return self._state.mapping is not None and is_of_weights

    def _require_steps(self, checkpoint: Checkpoint) -> None:
        total_steps = self._stepper.total_steps
        if self._resume.parts == "everything" and total_steps < checkpoint.num_steps:
            raise CheckpointError(
                f"total_steps is {total_steps}, and {checkpoint.path} has {checkpoint.num_steps} complete steps: set "
                f"total_steps={checkpoint.num_steps} or more, or resume from an older checkpoint with resume.checkpoint"
            )

    def _log_resumed(self, checkpoint: Checkpoint, changes: Changes) -> None:
        """Log the checkpoint, the settings that the run adopts, and those that differ without an effect on results."""
        if not self._ranks.is_main:
            return
        manifest = checkpoint.manifest()
        then = {name: manifest[name] for name in self._job_metadata if name in manifest}
        differences = find_differences(describe_state(self._job_metadata), describe_state(then))
        logger.info("resumed from %s%s", checkpoint.path, "".join(f"\n  {line}" for line in differences))
        for change in changes.settings:
            # What a scheduler keeps to itself says little: one line stands for all of it.
            if not change.name.startswith("lr_scheduler/") and not change.name.endswith("/initial_lr"):
                logger.info("adopted %s=%r, which was %r in the checkpoint", change.name, change.here, change.there)
        if changes.replays_schedule:
            logger.info("adopted the learning rates of this run, advanced by %d steps", checkpoint.num_steps)


def _complete_in(folder: Path) -> list[Checkpoint]:
    """Return the complete checkpoints in a folder, newest first."""
    return [found for found in Checkpoint.list_in(folder) if found.problem() is None]


class SaveSchedule:
    """Decides when to save: every few steps, epochs or minutes, and after the last step.

    Args:
        config: The periods.
        stepper: Counts the steps.
        epochs: The passes over the data; `None` if it has none.
    """

    def __init__(self, config: CheckpointingConfig, stepper: Stepper, epochs: Epochs | None) -> None:
        self._period_steps = config.period_steps
        self._period_epochs = config.period_epochs
        self._epochs = epochs
        self._period_seconds = None if config.period_minutes is None else config.period_minutes * _SECONDS_PER_MINUTE
        self._stepper = stepper
        self._saved_at = time.monotonic()

    @property
    def has_time_passed(self) -> bool:
        """Whether the minutes since the last save have passed by the clock of this process."""
        return self._period_seconds is not None and time.monotonic() - self._saved_at >= self._period_seconds

    def is_due(self) -> bool:
        """Return whether to save now whatever the clock says."""
        num_steps, epochs = self._stepper.current_step, self._epochs
        if self._period_steps is not None and num_steps % self._period_steps == 0:
            return True
        if epochs is not None and self._period_epochs is not None and epochs.is_due(self._period_epochs, num_steps - 1):
            return True
        return self._stepper.is_finished

    def restart_clock(self) -> None:
        """Count the minutes from now on."""
        self._saved_at = time.monotonic()


def _background_executor() -> ThreadPoolExecutor:
    """Make the thread that writes checkpoints; it outlives a loop that fails until the save is complete."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = accelerator and torch.device(accelerator.type, torch.accelerator.current_device_index())
    return ThreadPoolExecutor(
        max_workers=1, thread_name_prefix="d9d-checkpoint", initializer=_enter_background, initargs=(device,)
    )


def _enter_background(device: torch.device | None) -> None:
    """Make this thread use the device of the loop, and only such time of device and processor as the loop leaves."""
    if device is not None:  # by default it would be the first device of the machine on every rank
        torch.accelerator.set_device_index(device)
        if has_streams(device):  # by default it would be the stream of the loop, and to wait for it would stop the loop
            torch.accelerator.set_stream(torch.Stream(device))
    if sys.platform == "linux":  # the only system where threads have separate priorities
        with contextlib.suppress(OSError):  # some sandboxes forbid it, and saving works without
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND_NICENESS)
