"""Listens to the training loop, and triggers events of this project."""

import time
from collections.abc import Callable

from d9d import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
    EventTrainReadyContext,
)

from throughput.events.throughput import EVENT_THROUGHPUT_DUE, EVENT_THROUGHPUT_MEASURED, EventThroughputContext

_SHORTEST_TIME = 1e-9
"""In seconds; a coarse clock may return the same time twice."""


class ThroughputMeter:
    """Measures the steps per second of a training run.

    Args:
        bus: The bus of the run, as `register_events` receives it.
        period_steps: How often to measure, in steps.
        clock: Returns the time, in seconds.
    """

    def __init__(self, bus: EventBus, *, period_steps: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._bus = bus
        self._period_steps = period_steps
        self._clock = clock
        self._num_steps = 0
        self._measured_at = 0.0
        subscribe_annotated(bus, self)

    @subscribe(EVENT_TRAIN_READY)
    def _start(self, ctx: EventTrainReadyContext) -> None:
        self._measured_at = self._clock()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _count(self, ctx: EventStepContext) -> None:
        self._num_steps += 1
        if not ctx.stepper.is_due(self._period_steps):
            return
        self._bus.trigger(EVENT_THROUGHPUT_DUE, ctx)
        now = self._clock()
        speed = self._num_steps / max(now - self._measured_at, _SHORTEST_TIME)
        self._num_steps, self._measured_at = 0, now
        self._bus.trigger(
            EVENT_THROUGHPUT_MEASURED, EventThroughputContext(stepper=ctx.stepper, steps_per_second=speed)
        )
