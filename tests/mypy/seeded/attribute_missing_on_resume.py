"""An attribute is set at the start of a pass over the data, which a run that resumes has passed."""

import time

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_EPOCH_STARTED, EVENT_TRAIN_STEP_POST, EventEpochContext


class StepTime:
    @subscribe(EVENT_TRAIN_EPOCH_STARTED)
    def start(self, ctx: EventEpochContext) -> None:
        self.start_time = time.perf_counter()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def report(self, ctx: EventStepContext) -> None:
        print(f"{time.perf_counter() - self.start_time:.3f} s since the start of the pass")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[StepTime()],
    ).configure()


if __name__ == "__main__":
    configure().train()
