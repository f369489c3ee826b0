"""Reports for TensorBoard."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from d9d.loop.component.report.report import Report

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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
