"""An emitter is created, and never called."""

import dataclasses

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Event, RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


@dataclasses.dataclass(frozen=True)
class SampleContext:
    text: str


EVENT_SAMPLE: Event[SampleContext] = Event(id="generation.sample")


class Sampling(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self._bus = ctx.event_bus

    @subscribe(EVENT_TRAIN_STEP_POST)
    def sample(self, ctx: EventStepContext) -> None:
        emitter = self._bus.emitter(EVENT_SAMPLE)
        if emitter.handlers:
            SampleContext(f"a sample of step {ctx.stepper.current_step}")


class SampleLog:
    @subscribe(EVENT_SAMPLE)
    def log(self, ctx: SampleContext) -> None:
        print(ctx.text)


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sampling(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[SampleLog()],
    ).configure()


if __name__ == "__main__":
    configure().train()
