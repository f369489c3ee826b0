"""An override of a handler is no handler."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Progress:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")


class DetailedProgress(Progress):
    def report(self, ctx: EventStepContext) -> None:
        super().report(ctx)
        print(f"of {ctx.stepper.total_steps}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[DetailedProgress()],
    ).configure()


if __name__ == "__main__":
    configure().train()
