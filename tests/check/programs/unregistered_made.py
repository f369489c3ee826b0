"""Subscribers that register themselves where they are created, if they are given a bus."""

from d9d import TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class WrongWithoutBus:
    def __init__(self, bus: EventBus | None = None) -> None:
        self.bus = bus or EventBus()
        subscribe_annotated(self.bus, self)

    # E[d9d-unregistered]: Nothing registers the handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post"), so it
    #   is never called: pass an object of "WrongWithoutBus" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightWithBus:
    def __init__(self, bus: EventBus | None = None) -> None:
        self.bus = bus or EventBus()
        subscribe_annotated(self.bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightMadeByTask:
    def __init__(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)

    def on_step(self, ctx: EventStepContext) -> None: ...


class Task(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.part = RightMadeByTask(ctx.event_bus)


def main() -> None:
    trainer = TrainingConfigurator(config=None, task=Task()).configure()
    parts = [WrongWithoutBus(), RightWithBus(trainer.event_bus)]
    trainer.train()
    print(parts)
