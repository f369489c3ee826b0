"""A decorator returns a function without the mark of the handler."""

import time
from collections.abc import Callable

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


def timed(method: Callable[["Progress", EventStepContext], None]) -> Callable[["Progress", EventStepContext], None]:
    def call(self: "Progress", ctx: EventStepContext) -> None:
        start = time.perf_counter()
        method(self, ctx)
        print(f"the handler took {time.perf_counter() - start:.6f} s")

    return call


class Progress:
    @timed
    @subscribe(EVENT_TRAIN_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def announce(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} starts")


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
