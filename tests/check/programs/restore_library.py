"""Averages and adapters of other packages, which handlers swap in for an evaluation."""

from peft import PeftModel
from torch_ema import ExponentialMovingAverage

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
)


class WrongAdapter(TrainTask):
    model: PeftModel

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-restore]: Handler "begin" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") calls
        #   "merge_adapter", and nothing calls "unmerge_adapter", so the training goes on with what it has changed:
        #   change it back in a handler of EVENT_TRAIN_EVALUATION_FINISHED
        self.model.merge_adapter()


class Tracker:
    def push(self, name: str) -> None: ...


class Right(TrainTask):
    average: ExponentialMovingAverage

    def __init__(self, model: PeftModel) -> None:
        self.tracker = Tracker()
        self.model = model

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        self.average.store()
        self.average.copy_to()
        self.tracker.push(ctx.name)
        self.model.pause()
        self.model.disable_adapters()

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def end(self, ctx: EventEvaluationFinishedContext) -> None:
        self.average.restore()
        self.model.enable_adapters()
