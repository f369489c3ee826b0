"""A handler counts the steps of an event that does not lie in a step."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_READY, EventOptimizerReadyContext


class OptimizerLog:
    @subscribe(EVENT_TRAIN_OPTIMIZER_READY, every=100)
    def log(self, ctx: EventOptimizerReadyContext) -> None:
        print(ctx.optimizer)


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[OptimizerLog()],
    ).configure()


if __name__ == "__main__":
    configure().train()
