"""An event is misspelt."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue import train
from d9d.loop.event.catalogue.common import EventStepContext


class Progress:
    @subscribe(train.EVENT_TRAIN_BATCH_END)
    def report(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Progress()],
    ).configure()


if __name__ == "__main__":
    configure().train()
