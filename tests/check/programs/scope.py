"""Handlers of the events of the other loop."""

import d9d.loop.event.catalogue.inference as inference
from d9d.loop.control import BaseTask, InferenceTask, ProcessOutputsContext, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST, EVENT_INFERENCE_STEP_PRE
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_POST, EVENT_TRAIN_STEP_POST

STEP_OF_INFERENCE = inference.EVENT_INFERENCE_STEP_POST
TABLE = {"pre": EVENT_INFERENCE_STEP_PRE}


class WrongAlias(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    # E[d9d-scope]: Handler "after" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the training
    #   loop runs "WrongAlias", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_STEP_POST?
    @subscribe(STEP_OF_INFERENCE)
    def after(self, ctx: EventStepContext) -> None: ...


class WrongThroughObject(TrainTask):
    def __init__(self) -> None:
        self.bus: EventBus | None = None

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.bus = ctx.event_bus
        self._attach()

    def _attach(self) -> None:
        assert self.bus is not None
        # E[d9d-scope]: Handler "before" of EVENT_INFERENCE_STEP_PRE ("inference.step.pre") is never called: the
        #   training loop runs "WrongThroughObject", and only the inference loop triggers this event. Did you mean
        #   EVENT_TRAIN_STEP_PRE?
        self.bus.subscribe(TABLE["pre"], self.before)

    def before(self, ctx: EventStepContext) -> None: ...


class OptimizerWatch:
    def __init__(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)

    # E[d9d-scope]: Handler "after" of EVENT_TRAIN_OPTIMIZER_STEP_POST ("train.optimizer_step.post") is never called:
    #   the inference loop runs "OptimizerWatch", and only the training loop triggers this event. Handle it in a
    #   subclass of TrainTask
    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def after(self, ctx: EventStepContext) -> None: ...


class RightOptimizerWatch:
    def __init__(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def after(self, ctx: EventStepContext) -> None: ...


class Judge(InferenceTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.watch = OptimizerWatch(ctx.event_bus)


class Learner(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.watch = RightOptimizerWatch(ctx.event_bus)


class Both:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def after_training(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def after_inference(self, ctx: EventStepContext) -> None: ...


# E[d9d-scope]: Handler "after_inference" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the
#   training loop runs "WrongMixed", and only the inference loop triggers this event. Did you mean
#   EVENT_TRAIN_STEP_POST?
class WrongMixed(Both, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class BothOptional:
    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def after_training(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
    def after_inference(self, ctx: EventStepContext) -> None: ...


class RightMixed(BothOptional, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class Timed:
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None: ...


class RightTimed(Timed, TrainTask): ...


# E[d9d-scope]: Handler "after" of EVENT_TRAIN_STEP_POST ("train.step.post") is never called: the inference loop runs
#   "WrongTimed", and only the training loop triggers this event. Did you mean EVENT_INFERENCE_STEP_POST?
class WrongTimed(Timed, InferenceTask):
    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...


class RightAny(BaseTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_INFERENCE_STEP_POST, print)


class RightOnOtherBus(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def evaluate(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def after(self, ctx: EventStepContext) -> None: ...
