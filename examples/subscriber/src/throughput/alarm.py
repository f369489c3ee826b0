"""Listens to the event that the meter triggers."""

import logging

from d9d import EventBus, subscribe, subscribe_annotated

from throughput.events.throughput import EVENT_THROUGHPUT_MEASURED, EventThroughputContext

logger = logging.getLogger(__name__)


class SlowdownAlarm:
    """Warns when training becomes much slower than it has been.

    Args:
        bus: The bus of the run.
        tolerance: Warn below this fraction of the best speed so far.
    """

    def __init__(self, bus: EventBus, *, tolerance: float = 0.5) -> None:
        self._tolerance = tolerance
        self._best_steps_per_second = 0.0
        subscribe_annotated(bus, self)

    @subscribe(EVENT_THROUGHPUT_MEASURED)
    def _compare(self, ctx: EventThroughputContext) -> None:
        self._best_steps_per_second = max(self._best_steps_per_second, ctx.steps_per_second)
        if ctx.steps_per_second < self._tolerance * self._best_steps_per_second:
            logger.warning(
                "step %d: %.2f steps/s, %.2f at best",
                ctx.stepper.current_step,
                ctx.steps_per_second,
                self._best_steps_per_second,
            )
