"""Contexts that are wrong, and hidden from types: `d9d check` finds them by the names of the contexts."""

import threading
from collections.abc import Callable
from typing import Any

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
    EventTrainReadyContext,
)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class HiddenByADecorator(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    @timed
    def on_step(self, ctx: EventTrainReadyContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    @timed
    def right(self, ctx: EventTrainReadyContext) -> None: ...


def hidden_by_a_thread(bus: EventBus, ctx: EventStepContext) -> None:
    threading.Thread(target=bus.trigger, args=(EVENT_TRAIN_STEP_POST, 3)).start()
    threading.Thread(target=bus.trigger, args=(EVENT_TRAIN_STEP_POST, ctx)).start()
