"""A list of callbacks is appended to the list of callbacks, in place of its items."""

from collections.abc import Sequence

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


class Progress:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")


class Timer:
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def start(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} starts")


def collect_callbacks(own: Sequence[object]) -> list[object]:
    callbacks: list[object] = [Progress()]
    callbacks.append(own)
    return callbacks


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=collect_callbacks([Timer()]),
    ).configure()


if __name__ == "__main__":
    configure().train()
