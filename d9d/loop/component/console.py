"""What a run says: a progress bar on a terminal or in a notebook, and lines of `logging` everywhere."""

import contextlib
import errno
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from torch.nn import Module
from tqdm.auto import tqdm

from d9d.core.dist_context import DistributedContext
from d9d.core.report import Report
from d9d.loop.component.best_effort import BestEffort
from d9d.loop.component.failure import is_secondary_failure, summarize
from d9d.loop.component.sinks import Sink, SinkEvents
from d9d.loop.config import LoopConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.common import (
    EventCheckpointContext,
    EventModelStagesReadyContext,
    EventReportReadyContext,
)

_LABELS = {"steps_per_second": "steps/s", "samples_per_second": "samples/s", "peak_memory_bytes": "peak memory"}
_AROUND_BAR = ("{desc} {percentage:3.0f}%|", "| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{postfix}")
_SHORTEST_BAR = 4
"""In characters."""
_IS_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)

logger = logging.getLogger(__name__)


class Console(Sink):
    """Says how a run starts, what it reports and saves, and how it ends; the main process has one.

    All lines are messages of `logging`. A bar shows the progress, and the numbers of the last report with their step.

    Args:
        loop: What the loop does, such as `train`.
        config: The settings of the run.
        dist_context: The processes of the job, and the device of this one.
    """

    def __init__(self, loop: str, config: LoopConfig, dist_context: DistributedContext) -> None:
        super().__init__("the console", "progress and reports may be missing there")
        self._loop = loop
        self._config = config
        self._dist_context = dist_context
        self._draws_bar = config.reporting.progress_bar
        self._bar: _ProgressBar | None = None
        self._streams = contextlib.ExitStack()
        self._model = ""
        self._loaded: Path | None = None
        self._first_step = 0
        self._was_finite = True
        self._num_skipped = 0.0
        self._is_secondary_failure = False
        self._failure = ""

    def subscribe(self, bus: EventBus, events: SinkEvents) -> None:  # noqa: D102 -- inherited
        with self.guard:
            show_messages()
        bus.subscribe(events.model_stages_ready, self.describe_model)
        bus.subscribe(events.checkpoint_loaded, self.loaded)
        bus.subscribe(events.ready, self.open)
        if self._draws_bar or (self._draws_bar is None and (_IS_NOTEBOOK or _is_terminal(sys.stderr))):
            bus.subscribe(events.step_pre, self.count_steps)
        bus.subscribe(events.report_ready, self.write)
        bus.subscribe(events.checkpoint_saved, self.saved)
        bus.subscribe(events.failed, self.failed)
        bus.subscribe(events.closed, self.close)

    def describe_model(self, ctx: EventModelStagesReadyContext) -> None:
        """Keep the size of the model for the first line."""
        with self.guard:
            self._model = _describe_model(ctx.modules)
            if self._config.mesh.pipeline_parallel > 1:
                self._model = f"{self._model} in the stages of this process"
            if self._config.precision == "bf16-autocast":
                self._model = f"{self._model}, autocast to bfloat16"

    def loaded(self, ctx: EventCheckpointContext) -> None:
        """Keep the checkpoint for the first line."""
        with self.guard:
            self._loaded = ctx.path

    def open(self, _: object) -> None:
        """Say what the run is about to do, and draw the bar, before the first step."""
        with self.guard:
            self._open()

    def _open(self) -> None:
        stepper = self.guard.stepper
        if stepper is None:
            return
        self._first_step, self._opened_at = stepper.current_step, time.monotonic()
        if stepper.is_finished:
            return
        steps = f"{stepper.total_steps} steps"
        if self._first_step:
            steps = f"resumed after {self._first_step} of {steps}"
        logger.info(
            "%s: %s, %d samples each, %s", self._loop, steps, self._config.global_batch_size, self._surroundings()
        )
        if self._draws_bar is False:
            return
        if sys.stderr is None:  # as in a process that was started with `2>&-`
            if self._draws_bar:
                raise OSError(errno.EBADF, "this process has no stderr on which to draw a progress bar")
            return
        bar = _ProgressBar(
            desc=self._loop,
            unit="step",
            total=stepper.total_steps,
            initial=self._first_step,
            bar_format="{bar}".join(_AROUND_BAR),
            dynamic_ncols=not _IS_NOTEBOOK,
            disable=None if self._draws_bar is None and not _IS_NOTEBOOK else False,  # `None` asks if it is a terminal
        )
        if not bar.disable:
            self._bar = bar
            self._streams.enter_context(_streams_above(bar, self.guard))

    def _surroundings(self) -> str:
        config, dist_context = self._config, self._dist_context
        mesh = dist_context.mesh_parameters.model_dump(exclude_defaults=True)
        sizes = "".join(f", {name}={size}" for name, size in mesh.items())
        world = dist_context.world_size
        place = f"on {dist_context.device}, {world} process{'es' * (world > 1)}{sizes}"
        folders = []
        if config.checkpointing is not None:
            folders.append(f"checkpoints in {config.checkpointing.folder}")
        files = [config.reporting.json_lines, config.reporting.tensorboard]
        named = [str(path) for path in files if path is not None and config.reporting.period_steps is not None]
        if named:
            folders.append(f"reports in {' and '.join(named)}")
        model = ", ".join([*([self._model] if self._model else []), self._weights()])
        return "; ".join([place, model, *folders])

    def _weights(self) -> str:
        """Return where the weights come from; a checkpoint of inference has none."""
        config, source = self._config, self._config.source_checkpoint
        given = "weights as the model provider made them"
        if source is not None:
            given = f"weights from {' and '.join(map(str, [source] if isinstance(source, Path) else source))}"
        if self._loaded is None or self._loop != "train":
            return given
        if config.checkpointing is not None and config.checkpointing.trainable_only:
            return f"trainable weights from {self._loaded}, other {given}"
        return f"weights from {self._loaded}"

    def count_steps(self, _: object) -> None:
        """Show how many steps are complete: as many as the stepper counts, so none whose handlers are still running."""
        if self._bar is not None and self.guard.stepper is not None:
            with self.guard:
                self._bar.update(self.guard.stepper.current_step - self._bar.n)

    def write(self, ctx: EventReportReadyContext) -> None:
        """Show the numbers of a report."""
        self.count_steps(ctx)
        with self.guard:
            self._write(ctx.report, ctx.stepper.total_steps)

    def _write(self, report: Report, total_steps: int) -> None:
        where = f"{self._loop}: step {report.step} of {total_steps}"
        # The results of an evaluation come rarely, and would hide the numbers of training on the bar.
        if self._bar is None or "steps_per_second" not in report.metrics:
            logger.info("%s: %s", where, format_numbers(report.metrics))
        else:
            self._bar.show(report)
        self._warn(where, report.metrics)

    def _warn(self, where: str, numbers: Mapping[str, float]) -> None:
        if "steps_per_second" not in numbers:
            return
        not_finite = [name for name in ("loss", "gradient_norm") if not math.isfinite(numbers.get(name, 0.0))]
        if not_finite and self._was_finite:
            logger.warning("%s: %s", where, format_numbers({name: numbers[name] for name in not_finite}))
        self._was_finite = not not_finite
        num_skipped = numbers.get("skipped_steps", 0.0)
        if num_skipped > self._num_skipped:
            steps = "1 step" if num_skipped == 1 else f"{int(num_skipped)} steps"
            logger.warning("%s: %s skipped so far, for gradients that were not finite", where, steps)
        self._num_skipped = num_skipped

    def saved(self, ctx: EventCheckpointContext) -> None:
        """Say that a checkpoint is on disk."""
        self.count_steps(ctx)
        with self.guard:
            logger.info("%s: step %d of %d: saved %s", self._loop, ctx.step, ctx.stepper.total_steps, ctx.path)

    def failed(self, ctx: Any) -> None:
        """Keep what the error says, if it is about this rank at all."""
        with self.guard:
            self._is_secondary_failure = is_secondary_failure(ctx.error)
            self._failure = summarize(ctx.error)

    def close(self, ctx: Any) -> None:
        """Leave the bar as it stands, and say how the run has ended."""
        self.count_steps(ctx)
        with self.guard:
            self._close(ctx.outcome, self._failure or ctx.reason)

    def _close(self, outcome: str, reason: str) -> None:
        bar, self._bar = self._bar, None
        try:
            if bar is not None:
                bar.close()
        finally:
            self._streams.close()
        if self._is_secondary_failure:  # the rank that caused it says more
            return
        stepper = self.guard.stepper
        if stepper is None:
            logger.info("%s: %s before the first step: %s", self._loop, outcome, reason)
            return
        steps = f"after {stepper.current_step} of {stepper.total_steps} steps"
        if outcome == "finished" and stepper.current_step == self._first_step:
            logger.info("%s: nothing to do %s: %s", self._loop, steps, reason)
        elif stepper.current_step == self._first_step:
            logger.info("%s: %s %s: %s", self._loop, outcome, steps, reason)
        else:
            elapsed = tqdm.format_interval(time.monotonic() - self._opened_at)
            logger.info("%s: %s %s, in %s: %s", self._loop, outcome, steps, elapsed, reason)


def _describe_model(modules: list[Module]) -> str:
    """Return the number and the dtypes of the parameters."""
    parameters = [*{id(parameter): parameter for module in modules for parameter in module.parameters()}.values()]
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    return f"{sum(parameter.numel() for parameter in parameters):,} parameters in {' and '.join(dtypes)}"


def format_numbers(numbers: Mapping[str, float]) -> str:
    """Return the numbers of a report as a line for people.

    Args:
        numbers: The numbers by name.

    Returns:
        Names and numbers.
    """
    return ", ".join(_entries(numbers))


def _entries(numbers: Mapping[str, float]) -> list[str]:
    shown = {name: number for name, number in numbers.items() if name != "skipped_steps" or number}
    return [f"{_LABELS.get(name, name)} {_format(name, number)}" for name, number in shown.items()]


def _format(name: str, number: float) -> str:
    match name.rpartition("/")[2]:
        case "loss":
            return f"{number:.4f}"
        case "steps_per_second" | "samples_per_second":
            return f"{number:.2f}"
        case "peak_memory_bytes":
            return f"{number / 2**30:.2f} GiB"
        case _:
            return f"{number:.4g}"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and hasattr(stream, "isatty") and stream.isatty()


class _ProgressBar(tqdm):  # type: ignore[type-arg] # generic in tqdm's stubs alone
    """A bar of tqdm that can be hidden while something else is written to the terminal.

    It also gives the lock of all bars back when it cannot be drawn. Otherwise the bars of other threads would wait for
    ever, and so would `close`, which waits for tqdm's monitor.
    """

    _is_hidden = False
    _latest: tuple[int, Mapping[str, float]] | None = None

    def show(self, report: Report) -> None:
        """Show the numbers of a report from the next drawing on: as many as fit next to the shortest bar.

        The bar itself shows the speed.

        Args:
            report: The report.
        """
        self._latest = report.step, report.metrics

    def _fit(self) -> None:
        """Choose the numbers that fit. Drawings are rarer than reports of a fast loop."""
        latest, self._latest = self._latest, None
        if latest is None:
            return
        step, numbers = latest
        entries = _entries({name: number for name, number in numbers.items() if name not in _LABELS})
        if not _IS_NOTEBOOK:
            settings = {**self.format_dict, "bar_format": "".join(_AROUND_BAR), "postfix": None, "ncols": None}
            num_taken = len(self.format_meter(**settings)) + len(f", step {step}: ") + _SHORTEST_BAR
            while len(entries) > 1 and len(", ".join(entries)) > (self.ncols or 80) - num_taken:
                entries.pop()
        self.set_postfix_str(f"step {step}: {', '.join(entries)}", refresh=False)

    def hide(self) -> None:
        """Remove the bar from the terminal until it is drawn again by `redraw`."""
        if not self._is_hidden:
            with self.get_lock():  # type: ignore[no-untyped-call] # tqdm's own
                self.clear(nolock=True)
            self._is_hidden = True

    def redraw(self) -> None:
        """Draw the bar again, in a new line."""
        self._is_hidden = False
        self.refresh()

    def display(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_hidden:
            return None
        self._fit()
        return super().display(*args, **kwargs)

    def refresh(self, nolock: bool = False, lock_args: object = None) -> None:  # noqa: ARG002, FBT001, FBT002 -- tqdm's
        if nolock:
            super().refresh(nolock=True)
            return
        with self.get_lock():  # type: ignore[no-untyped-call] # tqdm's own
            super().refresh(nolock=True)


class _StreamAbove:
    """A stream of the terminal whose lines appear above a bar, and not in the middle of it.

    Args:
        stream: The stream.
        bar: The bar.
        guard: Takes the errors of the bar; those of the stream belong to the code that writes to it.
    """

    def __init__(self, stream: TextIO, bar: _ProgressBar, guard: BestEffort) -> None:
        self.stream = stream
        self._bar = bar
        self._guard = guard

    def write(self, text: str) -> int:
        """Write a text. The bar appears again after the end of a line, so it never overwrites a prompt."""
        if not text:
            return 0
        with self._guard:
            self._bar.hide()
        num_written = self.stream.write(text)
        if text.endswith("\n"):
            self.stream.flush()
            with self._guard:
                self._bar.redraw()
        return num_written

    def writelines(self, lines: Iterator[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return anything else of the stream."""
        return getattr(self.stream, name)


@contextlib.contextmanager
def _streams_above(bar: _ProgressBar, guard: BestEffort) -> Iterator[None]:
    """Make a context in which what goes to the terminal appears above a bar: prints, warnings, and messages.

    Handlers of `logging` keep the stream that they were made with, so theirs are replaced as well.
    """
    if _IS_NOTEBOOK:  # output there has a place apart from the bar
        yield
        return
    above = {
        name: _StreamAbove(stream, bar, guard)
        for name in ("stdout", "stderr")
        if (stream := getattr(sys, name)) is not None and (bar.fp == stream or _is_terminal(stream))
    }
    handlers = [
        (handler, stream)
        for known in [logging.root, *logging.root.manager.loggerDict.values()]
        for handler in (known.handlers if isinstance(known, logging.Logger) else [])
        if isinstance(handler, logging.StreamHandler)
        for stream in above.values()
        if handler.stream is stream.stream
    ]
    for name, stream in above.items():
        setattr(sys, name, stream)
    for handler, stream in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        for name, stream in above.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.stream)
        for handler, stream in handlers:
            if handler.stream is stream:
                handler.setStream(stream.stream)


class _MessageHandler(logging.Handler):
    """Writes messages to stderr, in a notebook to its output, unless others handle them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, if nothing else does."""
        if logging.root.handlers or any(handler is not self for handler in _messages.handlers):
            return
        stream = sys.stdout if _IS_NOTEBOOK else sys.stderr
        if stream is None:
            return
        try:
            stream.write(f"{self.format(record)}\n")
            stream.flush()
        except Exception:  # noqa: BLE001 -- as the handlers of `logging` do
            self.handleError(record)


_messages = logging.getLogger("d9d")


def show_messages() -> None:
    """Make the messages of d9d visible, from level INFO, unless the script has configured `logging` otherwise.

    A level that is set for the logger `d9d` stays. Where other handlers are, they alone get the messages.
    """
    if _messages.level == logging.NOTSET and not _messages.isEnabledFor(logging.INFO):
        _messages.setLevel(logging.INFO)
    if not any(isinstance(handler, _MessageHandler) for handler in _messages.handlers):
        _messages.addHandler(_MessageHandler())
