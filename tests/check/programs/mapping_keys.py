"""Subscribers that are the keys of a mapping, or that a key finds in it."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Key:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class Item:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightKeys(TrainTask):
    def __init__(self) -> None:
        self.names = {Key(): "first"}

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for each in self.names:
            subscribe_annotated(ctx.event_bus, each)


class RightItems(TrainTask):
    def __init__(self) -> None:
        self.items = {"first": Item()}

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for name in self.items:
            subscribe_annotated(ctx.event_bus, self.items[name])
