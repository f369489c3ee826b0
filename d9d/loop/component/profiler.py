"""What a few steps of a loop spend their time on, recorded by `torch.profiler`."""

import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.config import ConfigurationError, ProfilingConfig

logger = logging.getLogger(__name__)


class Profiler:
    """Records some steps of each rank, and writes one trace for each window of them.

    A trace appears under its name, such as `step-10-to-12.rank-3.pt.trace.json.gz`, only when it is whole. TensorBoard
    asks for that ending; Perfetto opens any. Steps are counted from 0, as by `Stepper.current_step`.

    Args:
        config: Which steps to record, and where to write; `None` records nothing.
        dist_context: Names the rank, and the device whose activities are recorded beside those of the CPU.
        stepper: Knows how many steps are complete.

    Raises:
        ConfigurationError: If the loop is too short for a window, or traces could not be written.
    """

    def __init__(self, config: ProfilingConfig | None, dist_context: DistributedContext, stepper: Stepper) -> None:
        self._config = config
        self._dist_context = dist_context
        self._stepper = stepper
        self._recording: _Recording | None = None
        if config is not None:
            _require_window(config, stepper.total_steps)
            _prepare_folder(config.folder)

    def __enter__(self) -> Self:
        """Begin to count, with the step that runs next."""
        self._first_step = self._stepper.current_step
        if self._config is not None:
            self._start_if_due(self._config)
        return self

    def step_done(self) -> None:
        """End the current step, and with it the window whose last step it was."""
        if self._config is None:
            return
        # Stopping what failed to go on would end the process, so it is let go of until it has gone on.
        recording, self._recording = self._recording, None
        if recording is not None:
            if self._stepper.current_step == recording.end_step:
                recording.finish(self._stepper.current_step)
            else:
                recording.resume()
                self._recording = recording
        self._start_if_due(self._config)

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; a window that the end of the loop cuts short is written, one in which a step failed is not."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        if error is None:
            recording.finish(self._stepper.current_step)
        else:
            recording.abandon()

    def _start_if_due(self, config: ProfilingConfig) -> None:
        num_window_steps = config.warmup_steps + config.active_steps
        cycle, position = divmod(self._stepper.current_step - self._first_step, config.wait_steps + num_window_steps)
        if position == config.wait_steps and cycle < config.num_cycles and not self._stepper.is_finished:
            self._recording = _Recording(config, self._dist_context, self._stepper.current_step)


class _Recording:
    """One window of steps, while it is recorded.

    Attributes:
        end_step: The step behind the last one of the window.

    Args:
        config: Says how long the window is.
        dist_context: Names the rank, and the device.
        start_step: The step that runs next, with which the profiler warms up.
    """

    def __init__(self, config: ProfilingConfig, dist_context: DistributedContext, start_step: int) -> None:
        self._folder = config.folder
        self._rank = dist_context.rank
        self._first_step = start_step + config.warmup_steps
        self.end_step = self._first_step + config.active_steps
        is_due = schedule(wait=0, warmup=config.warmup_steps, active=config.active_steps, repeat=1)
        self._profile = profile(
            activities=_activities(dist_context.device),
            schedule=lambda step: is_due(max(step - start_step, 0)),
            with_stack=config.with_stack,
        )
        # The trace labels the steps by this number, from 0 if it were left alone.
        self._profile.step_num = start_step
        self._running = ExitStack()
        self._running.enter_context(self._profile)

    def resume(self) -> None:
        """Go on with the next step."""
        self._profile.step()

    def finish(self, end_step: int) -> None:
        """Stop, and write the trace if a step of it has been recorded.

        Args:
            end_step: The step behind the last one that ran.
        """
        self._running.close()
        if end_step > self._first_step:
            name = f"step-{self._first_step}-to-{end_step - 1}.rank-{self._rank}"
            _write_trace(self._profile, self._folder, name)

    def abandon(self) -> None:
        """Stop after a step has failed, and write nothing."""
        try:
            self._running.close()
        except Exception:  # what ended the loop is what people must see
            logger.warning("the profiler could not be stopped after a step had failed", exc_info=True)


def _activities(device: torch.device) -> list[ProfilerActivity]:
    """Return what can be recorded of a device beside the CPU; devices that torch does not know have one name."""
    of_device = ProfilerActivity.__members__.get(device.type.upper(), ProfilerActivity.PrivateUse1)
    supported: set[ProfilerActivity] = supported_activities()  # type: ignore[no-untyped-call]  # torch's own
    return [ProfilerActivity.CPU, *({of_device} & supported - {ProfilerActivity.CPU})]


def _require_window(config: ProfilingConfig, total_steps: int) -> None:
    num_skipped = config.wait_steps + config.warmup_steps
    if num_skipped >= total_steps:
        raise ConfigurationError(
            f"profiling.wait_steps={config.wait_steps} and profiling.warmup_steps={config.warmup_steps} leave no step "
            f"to record of total_steps={total_steps}: lower the first, so that both come to at most {total_steps - 1}"
        )


def _prepare_folder(folder: Path) -> None:
    """Find out now, and not at the first trace, whether traces can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"profiling.folder={str(folder)!r} cannot be written to ({error}): name another folder, or free it"
        ) from error


def _write_trace(recorded: profile, folder: Path, name: str) -> None:
    """Write a trace, or say why there is none: a loop is worth more than what is known about its time."""
    trace = folder / f"{name}.pt.trace.json.gz"
    # The profiler packs by this ending, and TensorBoard overlooks it.
    partial = folder / f".{name}.partial.gz"
    try:
        recorded.export_chrome_trace(str(partial))
        partial.replace(trace)
    except OSError as error:
        partial.unlink(missing_ok=True)
        logger.warning("%s could not be written (%s); the loop goes on without it", trace, error)
    else:
        logger.info("wrote %s", trace)
