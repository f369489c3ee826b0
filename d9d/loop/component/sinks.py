"""Where reports go: the console, a file of JSON lines, TensorBoard."""

import dataclasses
import datetime as dt
import errno
import importlib.util
import json
import logging
import math
import os
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from d9d.core.stepper import Stepper
from d9d.loop.component.best_effort import BestEffort
from d9d.loop.config import ConfigurationError, ReportingConfig

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
        "step",
        "steps_per_second",
        "time",
    }
)
"""The fields of a report, and the numbers that the loop itself reports; the metrics of a task need other names."""

_LABELS = {"steps_per_second": "steps/s", "samples_per_second": "samples/s", "peak_memory_bytes": "peak memory"}
_TENSORBOARD_FLUSH_SECONDS = 10

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The numbers of a loop at one moment.

    Attributes:
        loop: What the loop does, such as `train`.
        num_steps: How many steps were complete.
        total_steps: How many steps the loop has.
        taken_at: The time of the report.
        numbers: The numbers, by name.
    """

    loop: str
    num_steps: int
    total_steps: int
    taken_at: dt.datetime
    numbers: Mapping[str, float]


class ReportSink(ABC):
    """Where the main process writes reports; whatever its methods raise is left to `guard`.

    Attributes:
        guard: The context in which the reporter calls the methods of this sink.

    Args:
        guard: The same.
    """

    def __init__(self, guard: BestEffort) -> None:
        self.guard = guard

    @abstractmethod
    def write(self, report: Report) -> None:
        """Write a report.

        Args:
            report: The report.
        """

    def close(self) -> None:
        """Write what is left, after the last report."""


class Console(ReportSink):
    """Draws a progress bar with the numbers of the last report; without a terminal, logs a line for each report.

    Args:
        loop: What the loop does, such as `train`.
        stepper: Counts the steps.
        draws_bar: Whether to draw the bar; `None` draws it on a terminal.
    """

    def __init__(self, loop: str, stepper: Stepper, *, draws_bar: bool | None) -> None:
        super().__init__(BestEffort("the console", "progress and reports may be missing there", stepper))
        self._loop = loop
        self._stepper = stepper
        self._draws_bar = draws_bar
        self._bar: _ProgressBar | None = None

    def open(self) -> None:
        """Draw the bar, before the first step."""
        if sys.stderr is None:  # as in a process that was started with `2>&-`
            if self._draws_bar:
                raise OSError(errno.EBADF, "this process has no stderr on which to draw a progress bar")
            return
        bar = _ProgressBar(
            desc=self._loop,
            unit="step",
            total=self._stepper.total_steps,
            initial=self._stepper.current_step,
            disable=None if self._draws_bar is None else not self._draws_bar,  # `None` asks whether it is a terminal
        )
        self._bar = None if bar.disable else bar

    @property
    def is_drawing(self) -> bool:
        """Whether there is a bar, which shows each step."""
        return self._bar is not None

    def step_done(self) -> None:
        """Show that a step is complete."""
        if self._bar is not None:
            self._bar.update()

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        if self._bar is None:
            numbers = [f"{_LABELS.get(name, name)} {_format(name, number)}" for name, number in report.numbers.items()]
            logger.info("%s: step %d of %d: %s", report.loop, report.num_steps, report.total_steps, ", ".join(numbers))
            return
        # The bar itself shows the speed.
        shown = {name: _format(name, number) for name, number in report.numbers.items() if name not in _LABELS}
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class _ProgressBar(tqdm):  # type: ignore[type-arg] # generic in tqdm's stubs alone
    """A bar of tqdm that gives the lock of all bars back when it cannot be drawn.

    Otherwise the bars of other threads would wait for ever, and so would `close`, which waits for tqdm's monitor.
    """

    def refresh(self, nolock: bool = False, lock_args: object = None) -> None:  # noqa: ARG002, FBT001, FBT002 -- tqdm's
        if nolock:
            super().refresh(nolock=True)
            return
        with self.get_lock():  # type: ignore[no-untyped-call] # tqdm's own
            super().refresh(nolock=True)


def _format(name: str, number: float) -> str:
    match name:
        case "loss":
            return f"{number:.4f}"
        case "steps_per_second" | "samples_per_second":
            return f"{number:.2f}"
        case "peak_memory_bytes":
            return f"{number / 2**30:.2f} GiB"
        case _:
            return f"{number:.4g}"


class JsonLines(ReportSink):
    """Appends a line of JSON to a file for each report.

    Several runs may share the file, one after another or at the same time, and so do runs that resume: each line names
    its run. A line is written by one call, to a file that is opened for it. If an earlier line was cut off, because a
    process was killed or the disk was full, the next one starts on a new line.

    Args:
        path: The file; it and its folders are made by the first report.
        stepper: Counts the steps.
    """

    def __init__(self, path: Path, stepper: Stepper) -> None:
        super().__init__(
            BestEffort(
                f"reporting.json_lines={path}", "reports are missing there until it can be written again", stepper
            )
        )
        self._path = path
        # Random: a job may start several runs in one second, all with the same seed.
        self._run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        record = {
            "run": self._run,
            "loop": report.loop,
            "step": report.num_steps,
            "time": report.taken_at.isoformat(timespec="milliseconds"),
            **{name: _in_json(number) for name, number in report.numbers.items()},
        }
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        # A file object would make twice as many system calls, which are most of the cost of a line.
        file = self._open()
        try:
            size = os.lseek(file, 0, os.SEEK_END)
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of the line could be written")
        finally:
            os.close(file)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o666)


def _in_json(number: float) -> float | str:
    """Return a number, or the string that `float` reads as it if JSON has no such number."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class TensorBoard(ReportSink):
    """Writes each number of a report as a scalar.

    Each loop has a separate folder, named after it. A run that resumes adds to it, and TensorBoard hides what earlier
    runs wrote about the steps that are run again.

    Args:
        folder: The folder that holds those of the loops; files are made by the first report.
        stepper: Counts the steps.
    """

    def __init__(self, folder: Path, stepper: Stepper) -> None:
        super().__init__(
            BestEffort(
                f"reporting.tensorboard={folder}",
                "its writer may not recover; start the run again to write more",
                stepper,
            )
        )
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- an extra, and slow to import

            self._writer = SummaryWriter(
                self._folder / report.loop, purge_step=report.num_steps, flush_secs=_TENSORBOARD_FLUSH_SECONDS
            )
        for name, number in report.numbers.items():
            self._writer.add_scalar(name, number, report.num_steps, walltime=report.taken_at.timestamp())

    def close(self) -> None:  # noqa: D102 -- inherited
        if self._writer is not None:
            self._writer.close()


def open_file_sinks(config: ReportingConfig, stepper: Stepper) -> list[ReportSink]:
    """Return the sinks that write files; nothing is written yet.

    Args:
        config: Names the files.
        stepper: Counts the steps.

    Returns:
        The sinks.
    """
    sinks: list[ReportSink] = []
    if config.json_lines is not None:
        sinks.append(JsonLines(config.json_lines, stepper))
    if config.tensorboard is not None:
        sinks.append(TensorBoard(config.tensorboard, stepper))
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
