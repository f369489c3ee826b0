"""What people see of a running loop."""

import logging

from d9d.core.stepper import Stepper
from d9d.loop.component.report.report import Report

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
