"""Attributes that are read before the handler that assigns them has run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from d9d.loop.control import CreateMetricsContext, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import (
    EventConfigurationStartedContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_EPOCH_STARTED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_FAILED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventEpochContext,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
    EventLossReadyContext,
    EventOptimizerReadyContext,
    EventTrainFailedContext,
    EventTrainReadyContext,
)


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongThroughHelper(Registering):
    optimizer: Any

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: EventModelStagesReadyContext) -> None:
        print(self._entries())

    def _entries(self) -> int:
        # E[d9d-order]: Handler "on_model" of EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages") reads
        #   "self.optimizer", which is assigned only later in the run, by handler "on_optimizer" of
        #   EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer"): assign it in "__init__" too, or in the
        #   handler of an earlier event
        return len(self.optimizer.state_dict())

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer


@dataclasses.dataclass
class WrongDataclass(Registering):
    period: int = 10

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        # E[d9d-order]: Handler "before" of EVENT_TRAIN_STEP_PRE ("train.step.pre") reads "self.seconds", which is
        #   assigned only later in the run, by handler "after" of EVENT_TRAIN_STEP_POST ("train.step.post"): assign it
        #   in "__init__" too, or in the handler of an earlier event
        print(self.seconds, self.period)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        self.seconds = 1.0


class WrongMetrics(Registering):
    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Any]:
        # E[d9d-order]: "create_metrics" reads "self.modules", which is assigned only later in the run, by handler
        #   "on_model" of EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages"): assign it in "__init__"
        #   too, or in the handler of an earlier event
        return dict.fromkeys(map(str, self.modules))

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: EventModelStagesReadyContext) -> None:
        self.modules = ctx.modules


class WrongNone(Registering):
    model: torch.nn.Module | None = None

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: EventConfigurationStartedContext) -> None:
        # E[d9d-order]: Handler "at_first" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") needs
        #   "self.model", which is None until then and is assigned only later in the run, by handler "on_model" of
        #   EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages"): test for None first, or assign it in
        #   the handler of an earlier event
        assert self.model is not None
        self.model.train()

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: EventModelStagesReadyContext) -> None:
        self.model = ctx.modules[0]


class WrongByHand(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, self.before)
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.after)

    def before(self, ctx: EventStepContext) -> None:
        # E[d9d-order]: Handler "before" of EVENT_TRAIN_STEP_PRE ("train.step.pre") reads "self.count", which is
        #   assigned only later in the run, by handler "after" of EVENT_TRAIN_STEP_POST ("train.step.post"): assign it
        #   in "__init__" too, or in the handler of an earlier event
        self.count += 1

    def after(self, ctx: EventStepContext) -> None:
        self.count = 0


class Right(Registering):
    counts: dict[str, int]
    modules: list[torch.nn.Module] | None = None

    def __init__(self) -> None:
        self.seconds = 0.0

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.counts = state_dict

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: EventConfigurationStartedContext) -> None:
        print(self.seconds, self.modules, self.counts, getattr(self, "optimizer", None))
        if hasattr(self, "optimizer"):
            print(self.optimizer)
        try:
            print(self.optimizer)
        except AttributeError:
            print("not yet")

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def then(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer
        print(self.optimizer)

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def later(self, ctx: EventStepContext) -> None:
        print(self.optimizer)
        self.counts = {}
        self.seconds = 1.0


class WrongForAResume(Registering):
    """A run that resumes within a pass has no start of this pass, and a rank without the last stage has no loss."""

    @subscribe(EVENT_TRAIN_EPOCH_STARTED)
    def begin(self, ctx: EventEpochContext) -> None:
        self.started = ctx.stepper.current_step

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def keep(self, ctx: EventLossReadyContext) -> None:
        self.loss = ctx.loss

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        # E[d9d-order]: Handler "after" of EVENT_TRAIN_STEP_POST ("train.step.post") reads "self.started", which is
        #   assigned only when an event has happened that need not happen before, by handler "begin" of
        #   EVENT_TRAIN_EPOCH_STARTED ("train.epoch.start"): assign it in "__init__" too, or in the handler of an
        #   earlier event
        print(ctx.stepper.current_step - self.started)
        if ctx.stepper.is_due(100):
            print(self.loss.item())

    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def evaluate(self, ctx: EventEvaluationStartedContext) -> None:
        # E[d9d-order]: Handler "evaluate" of EVENT_TRAIN_EVALUATION_STARTED ("train.evaluation.start") reads
        #   "self.loss", which is assigned only when an event has happened that need not happen before, by handler
        #   "keep" of EVENT_TRAIN_LOSS_READY ("train.loss.ready"): assign it in "__init__" too, or in the handler of an
        #   earlier event
        print(self.loss.item())


class RightForAnEvaluation(Registering):
    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: EventEvaluationStartedContext) -> None:
        self.began = ctx.name

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def end(self, ctx: EventEvaluationFinishedContext) -> None:
        print(self.began)

    @subscribe(EVENT_TRAIN_READY)
    def ready(self, ctx: EventTrainReadyContext) -> None:
        self.modules = ctx.modules

    @subscribe(EVENT_TRAIN_FAILED)
    def failed(self, ctx: EventTrainFailedContext) -> None:
        print(self.modules)


@dataclasses.dataclass
class WrongFieldLeftOut(Registering):
    seconds: float = dataclasses.field(init=False)
    steps: int = dataclasses.field(init=False, default=0)
    names: list[str] = dataclasses.field(init=False, default_factory=list)

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        print(self.steps, self.names)
        # E[d9d-order]: Handler "before" of EVENT_TRAIN_STEP_PRE ("train.step.pre") reads "self.seconds", which is
        #   assigned only later in the run, by handler "after" of EVENT_TRAIN_STEP_POST ("train.step.post"): assign it
        #   in "__init__" too, or in the handler of an earlier event
        print(self.seconds)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        self.seconds, self.steps, self.names = 1.0, 1, ["a"]


@dataclasses.dataclass
class RightFieldOfPostInit(Registering):
    seconds: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.seconds = 0.0

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        print(self.seconds)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        self.seconds = 1.0
