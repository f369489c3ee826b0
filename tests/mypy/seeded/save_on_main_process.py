"""The main process alone saves a sharded checkpoint."""

from pathlib import Path

from parts import CONFIG, SAMPLES, Sine, build_model
from torch import nn
from torch.distributed import checkpoint

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.common import (
    EventConfigurationStartedContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_STEP_POST,
)


class Saver:
    def __init__(self, folder: Path, period_steps: int) -> None:
        self._folder = folder
        self._period_steps = period_steps
        self._is_main = False
        self._modules: list[nn.Module] = []

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def note_processes(self, ctx: EventConfigurationStartedContext) -> None:
        self._is_main = ctx.dist_context.is_main_process

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def note_model(self, ctx: EventModelStagesReadyContext) -> None:
        self._modules = ctx.modules

    @subscribe(EVENT_TRAIN_STEP_POST)
    def save(self, ctx: EventStepContext) -> None:
        if ctx.stepper.is_due(self._period_steps) and self._is_main:
            checkpoint.save(self._modules[0].state_dict(), checkpoint_id=self._folder)


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Saver(Path("runs"), period_steps=1000)],
    ).configure()


if __name__ == "__main__":
    configure().train()
