"""Handlers of the events in d9d's own catalogue."""

from d9d.loop.control import RegisterTaskEventsContext
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_READY, EventInferenceReadyContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventModelStagesReadyContext,
    EventStepContext,
)


def show(*values: object) -> None: ...


class Task:
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        ctx.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_READY, lambda event_ctx: show(event_ctx.optimizer))
        # E[attr-defined]: "EventOptimizerReadyContext" has no attribute "optimiser"; maybe "optimizer"?
        ctx.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_READY, lambda event_ctx: show(event_ctx.optimiser))
        # E[d9d-handler]: Handler "on_step" of EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer") takes
        #   "EventStepContext", but the event carries "EventOptimizerReadyContext": annotate "ctx" with
        #   "EventOptimizerReadyContext". Did you mean the event EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        #   EVENT_TRAIN_OPTIMIZER_STEP_POST or EVENT_TRAIN_STEP_PRE?
        ctx.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_READY, self.on_step)

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model_ready(self, ctx: EventModelStagesReadyContext) -> None:
        self.modules = ctx.modules

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        show(ctx.stepper.current_step)

    # E[d9d-handler]: Handler "wrong_context" of EVENT_TRAIN_STEP_POST ("train.step.post") takes
    #   "EventModelStagesReadyContext", but the event carries "EventStepContext": annotate "ctx" with
    #   "EventStepContext". Did you mean the event EVENT_TRAIN_MODEL_STAGES_READY or EVENT_INFERENCE_MODEL_STAGES_READY?
    @subscribe(EVENT_TRAIN_STEP_POST)
    def wrong_context(self, ctx: EventModelStagesReadyContext) -> None: ...

    # E[d9d-handler]: Handler "wrong_loop" of EVENT_TRAIN_READY ("train.ready") takes "EventInferenceReadyContext", but
    #   the event carries "EventTrainReadyContext": annotate "ctx" with "EventTrainReadyContext". Did you mean the event
    #   EVENT_INFERENCE_READY?
    @subscribe(EVENT_TRAIN_READY)
    def wrong_loop(self, ctx: EventInferenceReadyContext) -> None: ...

    # E[d9d-untyped-handler]: Handler "untyped" of EVENT_INFERENCE_READY ("inference.ready") has no annotation for its
    #   context, so what it does with the context is not checked: annotate "ctx" with "EventInferenceReadyContext"
    @subscribe(EVENT_INFERENCE_READY)
    def untyped(self, ctx): ...

    # E[d9d-handler]: Handler "asynchronous" of EVENT_TRAIN_STEP_POST ("train.step.post") is asynchronous, but the bus
    #   does not await handlers: define it with "def"; a handler takes "EventStepContext" and returns None
    @subscribe(EVENT_TRAIN_STEP_POST)
    async def asynchronous(self, ctx: EventStepContext) -> None: ...
