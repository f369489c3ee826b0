"""A library declares an event for its users, and never triggers it."""

import dataclasses

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Event, RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FORWARD_BACKWARD_POST


@dataclasses.dataclass(frozen=True)
class FitBatchContext:
    step: int


EVENT_FIT_BATCH_PRE: Event[FitBatchContext] = Event(id="brain.fit_batch.pre")
EVENT_FIT_BATCH_POST: Event[FitBatchContext] = Event(id="brain.fit_batch.post")


class Brain(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self._bus = ctx.event_bus

    @subscribe(EVENT_TRAIN_FORWARD_BACKWARD_POST)
    def finish_batch(self, ctx: EventStepContext) -> None:
        self._bus.trigger(EVENT_FIT_BATCH_POST, FitBatchContext(ctx.stepper.current_step))


class Augmentation:
    @subscribe(EVENT_FIT_BATCH_PRE)
    def choose(self, ctx: FitBatchContext) -> None:
        print(f"augmentation of step {ctx.step}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Brain(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Augmentation()],
    ).configure()


if __name__ == "__main__":
    configure().train()
