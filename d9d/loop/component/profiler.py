"""Traces of a few steps of a loop, recorded by `torch.profiler`."""

import logging
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.best_effort import BestEffort
from d9d.loop.config import ConfigurationError, ProfilingConfig

logger = logging.getLogger(__name__)


class Profiler:
    """Records some steps of each rank, and writes one trace for each window of them.

    A trace has a name such as `step-10-to-12.rank-3.pt.trace.json.gz`, and appears only when it is complete.
    TensorBoard needs that suffix, and Perfetto opens it too. Steps are counted from 0, as in `Stepper.current_step`. A
    trace that cannot be recorded or written is lost, and the run continues.

    Args:
        config: Which steps to record, and where to write.
        dist_context: Names the rank, and the device that is recorded in addition to the CPU.
        stepper: Counts the steps.

    Raises:
        ConfigurationError: If the loop is too short for a window, or traces could not be written.
    """

    def __init__(self, config: ProfilingConfig, dist_context: DistributedContext, stepper: Stepper) -> None:
        self._config = config
        self._dist_context = dist_context
        self._stepper = stepper
        self._recording: _Recording | None = None
        self._guard = BestEffort(f"profiling.folder={config.folder}", "traces are missing there", stepper)
        _require_window(config, stepper.total_steps)
        _require_writable(config.folder)

    def __enter__(self) -> Self:
        """Start to count, with the next step."""
        self._first_step = self._stepper.current_step
        with self._guard:
            self._start_if_due()
        return self

    def step_done(self) -> None:
        """End the current step, and with it the window if this was its last step."""
        # Stopping a profiler whose step has failed would end the process, so a recording is dropped until then.
        recording, self._recording = self._recording, None
        with self._guard:
            if recording is not None and self._stepper.current_step < recording.end_step:
                recording.step()
                self._recording = recording
            elif recording is not None:
                recording.finish(self._stepper.current_step)
        with self._guard:
            self._start_if_due()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; write a window that the end of the loop cuts short, but not one in which a step has failed."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        with self._guard:
            if error is None:
                recording.finish(self._stepper.current_step)
            else:
                recording.stop()

    def _start_if_due(self) -> None:
        config = self._config
        num_window_steps = config.warmup_steps + config.active_steps
        cycle, position = divmod(self._stepper.current_step - self._first_step, config.wait_steps + num_window_steps)
        if position == config.wait_steps and cycle < config.num_cycles and not self._stepper.is_finished:
            self._recording = _Recording(config, self._dist_context, self._stepper.current_step)


class _Recording:
    """The recording of one window of steps.

    Attributes:
        end_step: The step after the last one of the window.

    Args:
        config: Says how long the window is.
        dist_context: Names the rank, and the device.
        start_step: The next step, with which the profiler warms up.
    """

    def __init__(self, config: ProfilingConfig, dist_context: DistributedContext, start_step: int) -> None:
        self._folder = config.folder
        self._rank = dist_context.rank
        self._first_step = start_step + config.warmup_steps
        self.end_step = self._first_step + config.active_steps
        action_of = schedule(wait=0, warmup=config.warmup_steps, active=config.active_steps, repeat=1)
        self._profile = profile(
            activities=_activities(dist_context.device),
            schedule=lambda step: action_of(max(step - start_step, 0)),
            with_stack=config.with_stack,
        )
        # The trace labels the steps by this number, which starts from 0 otherwise.
        self._profile.step_num = start_step
        self._profile.__enter__()  # type: ignore[no-untyped-call] # torch's own

    def step(self) -> None:
        """Continue with the next step."""
        self._profile.step()

    def stop(self) -> None:
        """Stop, and write nothing."""
        self._profile.__exit__(None, None, None)  # type: ignore[no-untyped-call] # torch's own

    def finish(self, end_step: int) -> None:
        """Stop, and write the trace if a step of it has been recorded.

        Args:
            end_step: The step after the last one that ran.
        """
        self.stop()
        if end_step <= self._first_step:
            return
        name = f"step-{self._first_step}-to-{end_step - 1}.rank-{self._rank}"
        trace = self._folder / f"{name}.pt.trace.json.gz"
        # The profiler compresses because of this suffix, and TensorBoard ignores it.
        partial = self._folder / f".{name}.partial.gz"
        try:
            self._profile.export_chrome_trace(str(partial))
            partial.replace(trace)
        finally:
            partial.unlink(missing_ok=True)
        logger.info("wrote %s", trace)


def _activities(device: torch.device) -> list[ProfilerActivity]:
    """Return the CPU, and the device if torch can record it; devices that torch does not know share one name."""
    of_device = ProfilerActivity.__members__.get(device.type.upper(), ProfilerActivity.PrivateUse1)
    supported: set[ProfilerActivity] = supported_activities()  # type: ignore[no-untyped-call]  # torch's own
    return [ProfilerActivity.CPU, *({of_device} & supported - {ProfilerActivity.CPU})]


def _require_window(config: ProfilingConfig, total_steps: int) -> None:
    num_skipped = config.wait_steps + config.warmup_steps
    if num_skipped >= total_steps:
        raise ConfigurationError(
            f"profiling.wait_steps={config.wait_steps} and profiling.warmup_steps={config.warmup_steps} leave none of "
            f"total_steps={total_steps} to record: lower wait_steps, so that both add up to at most {total_steps - 1}"
        )


def _require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to now rather than at the first trace."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"profiling.folder={str(folder)!r} cannot be written to ({error}): set it to another folder"
        ) from error
