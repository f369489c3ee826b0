"""A program that does not show which task it runs: any that it creates may be that one."""

import third_party

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


class Experiment:
    def __init__(self, task: TrainTask) -> None:
        self.task = task

    def run(self) -> None:
        TrainingConfigurator(config=None, task=self.task).configure().train()


def main() -> None:
    print(Right())
    print(Experiment(Right()))
    TrainingConfigurator(config=None, task=third_party.load()).configure().train()
