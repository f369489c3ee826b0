"""`register_events` without an annotation of its context, whose bus mypy takes for `Any`."""

from d9d.loop.control import (
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventStepContext


def on_step(ctx: EventStepContext) -> None: ...


class WrongFunction(TrainTask):
    # E[d9d-untyped-handler]: "register_events" of "WrongFunction" has no annotation for its context, so the handlers
    #   that it subscribes are not checked: annotate "ctx" with "RegisterTaskEventsContext"
    def register_events(self, ctx):
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, on_step)


class WrongMethod(TrainTask):
    # E[d9d-untyped-handler]: "register_events" of "WrongMethod" has no annotation for its context, so the handlers that
    #   it subscribes are not checked: annotate "context" with "RegisterTaskEventsContext"
    def register_events(self, context):
        bus = context.event_bus
        for event in (EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST):
            bus.subscribe(event, self.on_step)

    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongProvider(ModelProvider):
    # E[d9d-untyped-handler]: "register_events" of "WrongProvider" has no annotation for its context, so the handlers
    #   that it subscribes are not checked: annotate "ctx" with "RegisterModelEventsContext"
    def register_events(self, ctx):
        if ctx:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda step: on_step(step))  # noqa: PLW0108

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        raise NotImplementedError


class RightAnnotated(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    def register_events(self, ctx):
        subscribe_annotated(ctx.event_bus, self)


class RightTyped(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext):
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, on_step)


class RightOther:
    def register_events(self, ctx):
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, on_step)
