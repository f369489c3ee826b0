"""A plugin registers what its base class has registered already."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


class Base(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def announce(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} starts")


class Plugin(Base):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Plugin(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
    ).configure()


if __name__ == "__main__":
    configure().train()
