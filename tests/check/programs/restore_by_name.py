"""Handlers that put other weights into the model themselves, and that no other one follows."""

import torch

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EventEvaluationStartedContext,
)


class Registering(TrainTask):
    model: torch.nn.Module

    def __init__(self) -> None:
        self.averages: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongCopies(Registering):
    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def average(self, ctx: EventStepContext) -> None:
        for name, parameter in self.model.named_parameters():
            average = self.averages[name]
            average.copy_(average.lerp(parameter, 0.01))

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    # E[d9d-restore]: Handler "swap_in" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") puts other weights
    #   into the model, and no handler puts its own back, so the training goes on with what it has changed: change it
    #   back in a handler of EVENT_TRAIN_EVALUATION_FINISHED
    def swap_in(self, ctx: EventEvaluationStartedContext) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(self.averages[name])


class WrongLoads(Registering):
    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    # E[d9d-restore]: Handler "apply_ema" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") puts other
    #   weights into the model, and no handler puts its own back, so the training goes on with what it has changed:
    #   change it back in a handler of EVENT_TRAIN_EVALUATION_FINISHED
    def apply_ema(self, ctx: EventEvaluationStartedContext) -> None:
        self.load()

    def load(self) -> None:
        self.model.load_state_dict(self.averages)


class RightNoWeights(Registering):
    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def apply(self, ctx: EventEvaluationStartedContext) -> None:
        self.counts[ctx.name] = self.counts.get(ctx.name, 0) + 1
