"""Handlers that are found by names that are computed: nothing is said of any method that looks like one."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE

EVENTS = {"step_post": EVENT_TRAIN_STEP_POST, "step_pre": EVENT_TRAIN_STEP_PRE}


class RightByName(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for name, event in EVENTS.items():
            ctx.event_bus.subscribe(event, getattr(self, f"on_{name}"))

    def on_step_post(self, ctx: EventStepContext) -> None: ...

    def on_step_pre(self, ctx: EventStepContext) -> None: ...
