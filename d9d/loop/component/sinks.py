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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from d9d.core.stepper import Stepper

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


# What a line says beside its numbers, and the numbers of the loops themselves; metrics of tasks have other names.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The numbers of a loop at one moment.

    Attributes:
        loop: What the loop does, such as `train`.
        num_steps: How many steps were complete.
        total_steps: Of how many.
        taken_at: When that was.
        numbers: The numbers, by their names.
    """

    loop: str
    num_steps: int
    total_steps: int
    taken_at: dt.datetime
    numbers: Mapping[str, float]


class ReportSink(Protocol):
    """Where reports go; there are some on the main process alone."""

    @property
    def target(self) -> str:
        """Where that is, for messages."""

    def write(self, report: Report) -> None:
        """Write one report.

        Args:
            report: The report.

        Raises:
            OSError: If it cannot be written now.
        """

    def close(self) -> None:
        """Write what is left."""


logger = logging.getLogger(__name__)

_LABELS = {"steps_per_second": "steps/s", "samples_per_second": "samples/s", "peak_memory_bytes": "peak memory"}


class Console:
    """Draws a progress bar with the numbers of the last report, or logs a line a report where there is no terminal.

    Args:
        loop: What the loop does, such as `train`.
        is_bar: Whether to draw a bar; `None` draws one on a terminal.
        stepper: Knows the steps.
    """

    target = "the console"

    def __init__(self, loop: str, stepper: Stepper, *, is_bar: bool | None) -> None:
        from tqdm.auto import tqdm  # noqa: PLC0415 -- only the main process has a console, and not at once

        self._bar = tqdm(
            desc=loop,
            unit="step",
            total=stepper.total_steps,
            initial=stepper.current_step,
            disable=None if is_bar is None else not is_bar,  # tqdm takes None for "only on a terminal"
        )

    def step_done(self) -> None:
        """Show that a step is complete."""
        self._bar.update()

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        if not self._bar.disable:
            # The bar itself shows how fast it is.
            shown = {name: _format(name, number) for name, number in report.numbers.items() if name not in _LABELS}
            self._bar.set_postfix(shown, refresh=False)
            return
        numbers = [f"{_LABELS.get(name, name)} {_format(name, number)}" for name, number in report.numbers.items()]
        logger.info("%s: step %d of %d: %s", report.loop, report.num_steps, report.total_steps, ", ".join(numbers))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


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


class JsonLines:
    """Appends a line to a file for each report.

    The file belongs to no run: each line names its run, so that several runs, one after another or at once, and those
    that go on from a checkpoint, share it. Each line is written whole and by one call, into a file that is opened for
    it. Where a process was killed, or the disk was full, in the middle of a line, the next one begins on a new line.

    Args:
        path: The file; it and its folders are made with the first report.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Neither the seed nor the clock alone: a job may start many runs in a second, all with one seed.
        self._run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    @property
    def target(self) -> str:  # noqa: D102 -- inherited
        return f"reporting.json_lines={self._path}"

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        record = {
            "run": self._run,
            "loop": report.loop,
            "step": report.num_steps,
            "time": report.taken_at.isoformat(timespec="milliseconds"),
            **{name: _in_json(number) for name, number in report.numbers.items()},
        }
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        # Without a file object, which asks the system twice as often, and that is most of what a line takes.
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

    def close(self) -> None:
        """Do nothing: no file is open between two reports."""


def _in_json(number: float) -> float | str:
    """Spell what JSON has no numbers for; `float` reads each of them."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


_FLUSH_SECONDS = 10


def is_tensorboard_installed() -> bool:
    """Say whether TensorBoard is there, without importing it."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoard:
    """Writes each number of a report as a scalar.

    Each loop has a folder of its own, named after it. A run that goes on from a checkpoint adds to it, and what the one
    before it wrote of the steps that are run again is shown no longer.

    Args:
        folder: The folder that holds those of the loops; files are made with the first report.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    @property
    def target(self) -> str:  # noqa: D102 -- inherited
        return f"reporting.tensorboard={self._folder}"

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        writer = self._writer or self._open(report)
        for name, number in report.numbers.items():
            writer.add_scalar(name, number, report.num_steps, walltime=report.taken_at.timestamp())

    def close(self) -> None:  # noqa: D102 -- inherited
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, report: Report) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- an extra, and slow to import

        self._writer = SummaryWriter(self._folder / report.loop, purge_step=report.num_steps, flush_secs=_FLUSH_SECONDS)
        return self._writer
