"""A task that hands everything on to another one, in a way that its class does not show."""

from d9d import TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Right(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class Proxy(TrainTask):
    def __init__(self, inner: TrainTask) -> None:
        self.inner = inner

    def __getattribute__(self, name: str) -> object:
        return getattr(object.__getattribute__(self, "inner"), name)


TrainingConfigurator(config=None, task=Proxy(Right())).configure().train()
