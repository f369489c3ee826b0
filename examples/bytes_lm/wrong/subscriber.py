"""A subscriber that is wrong on purpose: mypy with d9d's plugin refuses it before anything runs."""

from d9d import RegisterTaskEventsContext, TrainTask, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_STEP_POST,
    EventModelStagesReadyContext,
    EventStepContext,
)


class WrongTask(TrainTask):
    """Handles three events, each of them wrongly."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        ctx.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_READY, self._on_step_post)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _on_step_post(self, ctx: EventModelStagesReadyContext) -> None:
        print(len(ctx.modules))

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def _on_model_ready(self, ctx):
        print(ctx.models)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _on_step(self, ctx: EventStepContext, epoch: int) -> None:
        print(ctx.stepper.current_step, epoch)
