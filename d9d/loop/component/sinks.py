"""Where reports go: a file of JSON lines, TensorBoard. The console is in `console.py`."""

import datetime as dt
import errno
import importlib.util
import json
import math
import os
import secrets
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from d9d.core.report import Report
from d9d.loop.component.best_effort import BestEffort
from d9d.loop.config import ConfigurationError, ReportingConfig
from d9d.loop.event import Event, EventBus
from d9d.loop.event.catalogue.common import (
    EventCheckpointContext,
    EventModelStagesReadyContext,
    EventReportReadyContext,
    EventStepContext,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RESERVED_NAMES = frozenset(
    {
        "gradient_norm",
        "learning_rate",
        "loop",
        "loss",
        "peak_memory_bytes",
        "run",
        "samples_per_second",
        "skipped_steps",
        "step",
        "steps_per_second",
        "time",
    }
)
"""The fields of a report, and the numbers that the loop itself reports; the metrics of a task need other names."""

_TENSORBOARD_FLUSH_SECONDS = 10


class SinkEvents(Protocol):
    """The events of one loop that sinks listen to."""

    @property
    def model_stages_ready(self) -> Event[EventModelStagesReadyContext]:
        """The model is built."""

    @property
    def ready(self) -> Event[Any]:
        """Right before the first step."""

    @property
    def step_pre(self) -> Event[EventStepContext]:
        """At the start of a step."""

    @property
    def report_ready(self) -> Event[EventReportReadyContext]:
        """The numbers of a report have arrived."""

    @property
    def checkpoint_loaded(self) -> Event[EventCheckpointContext]:
        """The run continues from a checkpoint."""

    @property
    def checkpoint_saved(self) -> Event[EventCheckpointContext]:
        """A checkpoint is on disk."""

    @property
    def failed(self) -> Event[Any]:
        """An exception has left the configuration or the loop."""

    @property
    def closed(self) -> Event[Any]:
        """The run is over."""


class Sink(ABC):
    """A place to which the main process writes reports, as a subscriber like any other.

    An error of its handlers never ends a run: each handler runs in `guard`.

    Attributes:
        guard: Logs the first error, and suppresses all.

    Args:
        target: The place as users know it, such as `reporting.json_lines=runs/metrics.jsonl`.
        consequence: What users miss after an error, and what they can do about it.
    """

    def __init__(self, target: str, consequence: str) -> None:
        self.guard = BestEffort(target, consequence)

    @abstractmethod
    def subscribe(self, bus: EventBus, events: SinkEvents) -> None:
        """Subscribe the handlers of this sink.

        Args:
            bus: The bus of the run.
            events: The events of its loop.
        """


class JsonLines(Sink):
    """Appends a line of JSON to a file for each report.

    Several runs may share the file, one after another or at the same time, and so do runs that resume: each line names
    its run. A line is written by one call, to a file that is opened for it. If an earlier line was cut off, because a
    process was killed or the disk was full, the next one starts on a new line.

    Args:
        loop: What the loop does, such as `train`.
        path: The file; it and its folders are made by the first report.
    """

    def __init__(self, loop: str, path: Path) -> None:
        super().__init__(f"reporting.json_lines={path}", "reports are missing there until it can be written again")
        self._loop = loop
        self._path = path
        self._end = 0
        # Random: a job may start several runs in one second, all with the same seed.
        self._run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    def subscribe(self, bus: EventBus, events: SinkEvents) -> None:  # noqa: D102 -- inherited
        bus.subscribe(events.report_ready, self.write)

    def write(self, ctx: EventReportReadyContext) -> None:
        """Append a report."""
        with self.guard:
            self._append(ctx.report)

    def _append(self, report: Report) -> None:
        record = {
            "run": self._run,
            "loop": self._loop,
            "step": report.step,
            "time": report.time.isoformat(timespec="milliseconds"),
            **{name: in_json(number) for name, number in report.metrics.items()},
        }
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        # A file object would make twice as many system calls, which are most of the cost of a line.
        file = self._open()
        try:
            size = os.lseek(file, 0, os.SEEK_END)
            # A file that ends where this run has last written ends with its line: most of the time is system calls.
            if size not in (0, self._end) and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of the line could be written")
            self._end = size + len(line)
        finally:
            os.close(file)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o666)


def in_json(number: float) -> float | str:
    """Return a number, or the string that `float` reads as it if JSON has no such number."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class TensorBoard(Sink):
    """Writes each number of a report as a scalar.

    Each loop has a separate folder, named after it. A run that resumes adds to it, and TensorBoard hides what earlier
    runs wrote about the steps that are run again.

    Args:
        loop: What the loop does, such as `train`.
        folder: The folder that holds those of the loops; files are made by the first report.
    """

    def __init__(self, loop: str, folder: Path) -> None:
        super().__init__(
            f"reporting.tensorboard={folder}", "its writer may not recover; start the run again to write more"
        )
        self._folder = folder / loop
        self._writer: SummaryWriter | None = None

    def subscribe(self, bus: EventBus, events: SinkEvents) -> None:  # noqa: D102 -- inherited
        bus.subscribe(events.report_ready, self.write)
        bus.subscribe(events.closed, self.close)

    def write(self, ctx: EventReportReadyContext) -> None:
        """Write the numbers of a report."""
        with self.guard:
            self._add(ctx.report)

    def _add(self, report: Report) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- an extra, and slow to import

            self._writer = SummaryWriter(self._folder, purge_step=report.step, flush_secs=_TENSORBOARD_FLUSH_SECONDS)
        for name, number in report.metrics.items():
            self._writer.add_scalar(name, number, report.step, walltime=report.time.timestamp())

    def close(self, _: object) -> None:
        """Write what is left."""
        if self._writer is not None:
            with self.guard:
                self._writer.close()


def build_file_sinks(loop: str, config: ReportingConfig) -> list[Sink]:
    """Return the sinks that write files; nothing is written yet.

    Args:
        loop: What the loop does, such as `train`.
        config: Names the files.

    Returns:
        The sinks; none without reports.
    """
    sinks: list[Sink] = []
    if config.period_steps is None:
        return sinks
    if config.json_lines is not None:
        sinks.append(JsonLines(loop, config.json_lines))
    if config.tensorboard is not None:
        sinks.append(TensorBoard(loop, config.tensorboard))
    return sinks


def require_writable(config: ReportingConfig) -> None:
    """Refuse files that could not be written when the first report is due.

    Args:
        config: Names the files.

    Raises:
        ConfigurationError: If one of them could not be written, or TensorBoard is not installed.
    """
    if config.period_steps is None:
        return
    if (path := config.json_lines) is not None:
        if path.exists() and not path.is_file():
            raise ConfigurationError(
                f"reporting.json_lines={path} is not a regular file: set it to the path of a file, or to None"
            )
        if not _can_write(path):
            raise ConfigurationError(
                f"reporting.json_lines={path} is not writable by this process: set it to another path, or to None"
            )
    if (folder := config.tensorboard) is not None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigurationError(
                f"reporting.tensorboard={folder} needs TensorBoard, which is not installed: run "
                "`pip install 'd9d-hooks[tensorboard]'`, or set it to None"
            )
        if folder.is_file() or not _can_write(folder):
            raise ConfigurationError(
                f"reporting.tensorboard={folder} is not a folder that this process can write to: set it to another "
                "folder, or to None"
            )


def _can_write(path: Path) -> bool:
    """Return whether a file or a folder can be written or made, without making it."""
    if path.exists():
        return os.access(path, os.W_OK)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
