"""A handler wants an argument that nothing passes."""

from parts import CONFIG, SAMPLES, Sine, build_model
from torch import Tensor

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class ImageLogger:
    def __init__(self, period_steps: int) -> None:
        self.period_steps = period_steps

    @subscribe(EVENT_TRAIN_STEP_POST)
    def log_images(self, ctx: EventStepContext, outputs: Tensor) -> None:
        if ctx.stepper.is_due(self.period_steps):
            print(outputs.shape)


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[ImageLogger(period_steps=2)],
    ).configure()


if __name__ == "__main__":
    configure().train()
