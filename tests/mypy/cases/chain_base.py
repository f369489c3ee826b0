"""The first of three modules whose classes derive from each other."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe_annotated


class FirstTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
