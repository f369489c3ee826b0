"""A right program whose subscribers are in fields of dataclasses, which are found by computed names."""

import dataclasses
from typing import Any

import torch

from d9d import TrainingConfig, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


@dataclasses.dataclass
class Meter:
    window: int = 10

    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


class InField:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


@dataclasses.dataclass
class Task(TrainTask):
    parts: list[Any] = dataclasses.field(default_factory=list)

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for field in dataclasses.fields(self):
            for part in getattr(self, field.name):
                subscribe_annotated(ctx.event_bus, part)


TrainingConfigurator(
    config=TrainingConfig(total_steps=1, global_batch_size=1),
    task=dataclasses.replace(Task(), parts=[InField()]),
    model_provider=torch.nn.Identity,
    dataset_provider=[torch.zeros(1)],
    subscribers=[Meter(window=3)],
).configure().train()
