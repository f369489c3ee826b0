"""What people see of a running loop."""

from pathlib import Path

from pydantic import PositiveInt

from d9d.core.configuration import Settings


class ReportingConfig(Settings):
    """What people see of a running loop."""

    progress_bar: bool | None = None
    """Whether to draw a progress bar; `None` draws one where there is a terminal, and logs lines elsewhere."""

    period_steps: PositiveInt | None = 10
    """How often to report numbers, in steps; `None` never does. No report waits for the device: it appears with a
    later step, when the device has its numbers, and the last one at the end of the loop."""

    json_lines: Path | None = Path("runs/metrics.jsonl")
    """The file to which each report is appended as a line of JSON; several runs may share it. `None` writes none."""

    tensorboard: Path | None = None
    """The folder for TensorBoard, in which each loop has one of its own; it takes `pip install 'd9d[tensorboard]'`, and
    a folder for each run. `None` writes nothing."""
