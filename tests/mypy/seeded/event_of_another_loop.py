"""A training task listens to the inference loop."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST


class Reporting(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Reporting(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
    ).configure()


if __name__ == "__main__":
    configure().train()
