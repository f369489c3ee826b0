"""A right program whose subscribers are the keys of mappings, or are found by them."""

import torch

from d9d import TrainingConfig, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


class AsKey:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


class AsKeyOfLiteral:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


class FromTable:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


class Task(TrainTask):
    def __init__(self) -> None:
        self.weights: dict[object, float] = {}
        self.weights[AsKey()] = 0.5
        self.more_weights = {AsKeyOfLiteral(): 0.5}

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for part in self.weights:
            subscribe_annotated(ctx.event_bus, part)
        for part in self.more_weights:
            subscribe_annotated(ctx.event_bus, part)
        handlers = {EVENT_TRAIN_STEP_PRE: self.begin, EVENT_TRAIN_STEP_POST: self.end}
        for event in handlers:  # noqa: PLC0206 -- what is tested
            ctx.event_bus.subscribe(event, handlers[event])

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def begin(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def end(self, ctx: EventStepContext) -> None: ...


KINDS = {"from table": FromTable}

TrainingConfigurator(
    config=TrainingConfig(total_steps=1, global_batch_size=1),
    task=Task(),
    model_provider=torch.nn.Identity,
    dataset_provider=[torch.zeros(1)],
    subscribers=[KINDS[name]() for name in sorted(KINDS)],
).configure().train()
