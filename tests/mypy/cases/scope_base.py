"""Mixins and tasks of another module, for the cases of `d9d-scope`."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_FORWARD_POST, EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext


class InferenceLog:
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def log_step(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_INFERENCE_FORWARD_POST)
    def log_forward(self, ctx: EventStepContext) -> None: ...


class TrainLog:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def log_train_step(self, ctx: EventStepContext) -> None: ...


class Log:
    """Listens to both loops, and is mixed into tasks of both."""

    @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
    def log_inference_step(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def log_train_step(self, ctx: EventStepContext) -> None: ...


class StepLog:
    """Does the same in both loops."""

    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
    def log_step(self, ctx: EventStepContext) -> None: ...


class RegisteringTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
