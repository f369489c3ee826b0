"""A profiler is created, and not passed to the loop."""

import time

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


class Profiler:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def start(self, ctx: EventStepContext) -> None:
        self._start = time.perf_counter()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None:
        self.seconds.append(time.perf_counter() - self._start)


class Progress:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        print(f"step {ctx.stepper.current_step} is done")


PROFILER = Profiler()


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
