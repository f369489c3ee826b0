"""An event is triggered with the context at hand, which is of another event."""

import dataclasses

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Event, RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


@dataclasses.dataclass(frozen=True)
class WarmContext:
    step: int


EVENT_WARM: Event[WarmContext] = Event(id="warmup.finished")


class WarmUp(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self._bus = ctx.event_bus

    @subscribe(EVENT_TRAIN_STEP_POST)
    def end(self, ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1000:
            self._bus.trigger(EVENT_WARM, ctx)


class Freezer:
    @subscribe(EVENT_WARM)
    def freeze(self, ctx: WarmContext) -> None:
        print(f"frozen after step {ctx.step}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=WarmUp(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Freezer()],
    ).configure()


if __name__ == "__main__":
    configure().train()
