"""Averaged weights are put into the model for an evaluation, and stay there."""

import torch
from parts import CONFIG, SAMPLES, Sine, build_model
from torch import nn

from d9d import Evaluation, Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_READY,
    EventEvaluationStartedContext,
    EventTrainReadyContext,
)


class WeightAverage:
    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._modules: list[nn.Module] = []
        self._average: list[torch.Tensor] = []

    @subscribe(EVENT_TRAIN_READY)
    def begin(self, ctx: EventTrainReadyContext) -> None:
        self._modules = ctx.modules
        self._average = [each.detach().clone() for module in ctx.modules for each in module.parameters()]

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def update(self, ctx: EventStepContext) -> None:
        for average, weight in zip(self._average, self._weights(), strict=True):
            average.lerp_(weight.detach(), 1 - self._decay)

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def swap_in(self, ctx: EventEvaluationStartedContext) -> None:
        with torch.no_grad():
            for average, weight in zip(self._average, self._weights(), strict=True):
                weight.copy_(average)

    def _weights(self) -> list[nn.Parameter]:
        return [each for module in self._modules for each in module.parameters()]


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[WeightAverage(decay=0.999)],
        evaluations={"validation": Evaluation(dataset_provider=SAMPLES, period_steps=2)},
    ).configure()


if __name__ == "__main__":
    configure().train()
