"""The loss of every step is read to log some of them."""

from parts import CONFIG, SAMPLES, Sine, build_model
from torch import Tensor

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_LOSS_READY, EVENT_TRAIN_STEP_POST, EventLossReadyContext


class LossLog:
    def __init__(self, period_steps: int) -> None:
        self._period_steps = period_steps
        self._loss = 0.0

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def read(self, ctx: EventLossReadyContext) -> None:
        self._loss = _to_number(ctx.loss)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def log(self, ctx: EventStepContext) -> None:
        if ctx.stepper.is_due(self._period_steps):
            print(f"loss {self._loss:.3f}")


def _to_number(loss: Tensor) -> float:
    return loss.item()


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[LossLog(period_steps=100)],
    ).configure()


if __name__ == "__main__":
    configure().train()
