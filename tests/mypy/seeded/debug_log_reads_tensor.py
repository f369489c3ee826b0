"""A debug message formats a tensor in every step, shown or not."""

import logging

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_GRADIENTS_READY, EventGradientsReadyContext

logger = logging.getLogger(__name__)


class GradientLog:
    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def log(self, ctx: EventGradientsReadyContext) -> None:
        logger.debug(f"norm of the gradients: {ctx.norm}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[GradientLog()],
    ).configure()


if __name__ == "__main__":
    configure().train()
