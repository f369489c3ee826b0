"""A handler of a run that resumes reads what a later handler assigns."""

import time

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import EventCheckpointContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_CHECKPOINT_LOADED, EVENT_TRAIN_READY, EventTrainReadyContext


class RunTime:
    @subscribe(EVENT_TRAIN_CHECKPOINT_LOADED)
    def tell(self, ctx: EventCheckpointContext) -> None:
        print(f"step {ctx.step} was loaded in {time.perf_counter() - self.start:.3f} s")

    @subscribe(EVENT_TRAIN_READY)
    def begin(self, ctx: EventTrainReadyContext) -> None:
        self.start = time.perf_counter()


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[RunTime()],
    ).configure()


if __name__ == "__main__":
    configure().train()
