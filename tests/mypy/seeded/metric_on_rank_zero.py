"""Rank 0 alone computes a metric, and computing it reduces over all ranks."""

import torch
from parts import CONFIG, SAMPLES, Sine, build_model
from torch import Tensor, distributed

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_LOSS_READY,
    EventLossReadyContext,
    EventTrainFinishedContext,
)


class Mean:
    def __init__(self) -> None:
        self._total = torch.zeros(2)

    def update(self, value: Tensor) -> None:
        self._total += torch.stack([value, torch.ones_like(value)])

    def compute(self) -> Tensor:
        distributed.all_reduce(self._total)
        return self._total[0] / self._total[1]


class Evaluator:
    def __init__(self) -> None:
        self._mean = Mean()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def update(self, ctx: EventLossReadyContext) -> None:
        self._mean.update(ctx.loss)

    @subscribe(EVENT_TRAIN_FINISHED)
    def report(self, ctx: EventTrainFinishedContext) -> None:
        if distributed.get_rank() == 0:
            print(f"mean loss {self._mean.compute():.3f}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Evaluator()],
    ).configure()


if __name__ == "__main__":
    configure().train()
