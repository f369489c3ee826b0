"""A block ends with the last event of another block."""

import dataclasses

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Event, RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE


@dataclasses.dataclass(frozen=True)
class StageContext:
    step: int


EVENT_SAMPLING_PRE: Event[StageContext] = Event(id="generation.sampling.pre")
EVENT_SCORING_PRE: Event[StageContext] = Event(id="generation.scoring.pre")
EVENT_SCORING_POST: Event[StageContext] = Event(id="generation.scoring.post")


class Generating(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self._bus = ctx.event_bus

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def generate(self, ctx: EventStepContext) -> None:
        stage = StageContext(ctx.stepper.current_step)
        with self._bus.bounded(EVENT_SAMPLING_PRE, EVENT_SCORING_POST, stage):
            print("samples")
        with self._bus.bounded(EVENT_SCORING_PRE, EVENT_SCORING_POST, stage):
            print("scores")


class StageTime:
    @subscribe(EVENT_SAMPLING_PRE)
    def start(self, ctx: StageContext) -> None:
        print(f"sampling of step {ctx.step} starts")

    @subscribe(EVENT_SCORING_POST)
    def stop(self, ctx: StageContext) -> None:
        print(f"step {ctx.step} ends")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Generating(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[StageTime()],
    ).configure()


if __name__ == "__main__":
    configure().train()
