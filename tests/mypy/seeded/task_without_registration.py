"""A task overrides the method that registers its handlers, and does not register them."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Sampling(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._device = ctx.dist_context.device

    @subscribe(EVENT_TRAIN_STEP_POST)
    def sample(self, ctx: EventStepContext) -> None:
        print(f"a sample on {self._device}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sampling(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
    ).configure()


if __name__ == "__main__":
    configure().train()
