"""Attributes that are read too early: of other objects, by methods that the loop calls, and `None` until then."""

import dataclasses
import io
from typing import Any

import torch

from d9d.loop.control import (
    BuildForwardInputsContext,
    ComputeLossContext,
    ComputeLossResult,
    InferenceTask,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import (
    EventCheckpointContext,
    EventConfigurationStartedContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_FINISHED
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CHECKPOINT_STARTED,
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventOptimizerReadyContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class Shared:
    def fill(self, modules: list[torch.nn.Module]) -> None:
        self.modules = modules

    def count(self) -> int:
        # E[d9d-order]: Handler "at_first" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") reads "modules"
        #   of "Shared", which is assigned only later in the run, by handler "on_model" of
        #   EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages"): assign it in "__init__" too, or in the
        #   handler of an earlier event
        return len(self.modules)


class WrongOtherObject(Registering):
    def __init__(self) -> None:
        self.shared = Shared()

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: EventConfigurationStartedContext) -> None:
        print(self.shared.count())

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: EventModelStagesReadyContext) -> None:
        self.shared.fill(ctx.modules)


@dataclasses.dataclass
class Record:
    optimizer: Any = None


class WrongRecord(Registering):
    def __init__(self) -> None:
        self.record = Record()

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: EventModelStagesReadyContext) -> None:
        # E[d9d-order]: Handler "on_model" of EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages") needs
        #   "optimizer" of "Record", which is None until then and is assigned only later in the run, by handler
        #   "on_optimizer" of EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer"): test for None first, or
        #   assign it in the handler of an earlier event
        self.record.optimizer.zero_grad()

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer(self, ctx: EventOptimizerReadyContext) -> None:
        self.record.optimizer = ctx.optimizer


class Part:
    part_modules: list[torch.nn.Module]

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: EventConfigurationStartedContext) -> None:
        # E[d9d-order]: Handler "at_first" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") reads
        #   "self.part_modules", which is assigned only later in the run, by handler "on_model" of
        #   EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages"): assign it in "__init__" too, or in the
        #   handler of an earlier event
        print(self.part_modules)


class WrongFilledByAnother(TrainTask):
    def __init__(self) -> None:
        self.part = Part()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        subscribe_annotated(ctx.event_bus, self.part)

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: EventModelStagesReadyContext) -> None:
        self.part.part_modules = ctx.modules


class WrongNone(Registering):
    def __init__(self) -> None:
        self.optimizer: Any = None
        self.model: Any = None
        self.names: Any = None

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: EventConfigurationStartedContext) -> None:
        # E[d9d-order]: Handler "at_first" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") needs
        #   "self.names", which is None until then and is assigned only later in the run, by handler "on_optimizer" of
        #   EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer"): test for None first, or assign it in the
        #   handler of an earlier event
        for name in self.names:
            print(name)
        # E[d9d-order]: Handler "at_first" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") needs
        #   "self.model", which is None until then and is assigned only later in the run, by handler "on_optimizer" of
        #   EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer"): test for None first, or assign it in the
        #   handler of an earlier event
        if not self.model:
            raise RuntimeError("no model")
        # E[d9d-order]: Handler "at_first" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") needs
        #   "self.optimizer", which is None until then and is assigned only later in the run, by handler "on_optimizer"
        #   of EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer"): test for None first, or assign it in the
        #   handler of an earlier event
        assert self.optimizer

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer
        self.model = ctx
        self.names = ["a"]


class WrongMethods(Registering):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> Any:
        # E[d9d-order]: "build_forward_inputs" reads "self.scale", which is assigned only later in the run, by handler
        #   "after" of EVENT_TRAIN_STEP_POST ("train.step.post"): assign it in "__init__" too, or in the handler of an
        #   earlier event
        return {"scale": self.scale}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        # E[d9d-order]: "compute_loss" reads "self.weight", which is assigned only later in the run, by handler "after"
        #   of EVENT_TRAIN_STEP_POST ("train.step.post"): assign it in "__init__" too, or in the handler of an earlier
        #   event
        return ComputeLossResult(loss=ctx.outputs * self.weight, loss_weight=1.0)

    def state_dict(self) -> dict[str, Any]:
        # E[d9d-order]: "state_dict" reads "self.total", which is assigned only later in the run, by handler "end" of
        #   EVENT_TRAIN_FINISHED ("train.finished"): assign it in "__init__" too, or in the handler of an earlier event
        return {"n": self.total}

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        self.scale = 1.0
        self.weight = 1.0

    @subscribe(EVENT_TRAIN_FINISHED)
    def end(self, ctx: EventTrainFinishedContext) -> None:
        self.total = 3


class WrongOutputs(InferenceTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        # E[d9d-order]: "process_outputs" reads "self.file", which is assigned only later in the run, by handler "end"
        #   of EVENT_INFERENCE_FINISHED ("inference.finished"): assign it in "__init__" too, or in the handler of an
        #   earlier event
        self.file.write(str(ctx.samples))

    @subscribe(EVENT_INFERENCE_FINISHED)
    def end(self, ctx: Any) -> None:
        self.file = io.StringIO()


class WrongSaved(Registering):
    @subscribe(EVENT_TRAIN_CHECKPOINT_STARTED)
    def begin(self, ctx: EventCheckpointContext) -> None:
        # E[d9d-order]: Handler "begin" of EVENT_TRAIN_CHECKPOINT_STARTED ("train.checkpoint.start") reads
        #   "self.newest", which is assigned only later in the run, by handler "end" of EVENT_TRAIN_CHECKPOINT_SAVED
        #   ("train.checkpoint.saved"): assign it in "__init__" too, or in the handler of an earlier event
        print(self.newest)

    @subscribe(EVENT_TRAIN_CHECKPOINT_SAVED)
    def end(self, ctx: EventCheckpointContext) -> None:
        self.newest = ctx.path


class Lazy:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        first = 1
        second = first + 1
        third = second + 1
        self.lazy_total = third


class Right(Registering):
    writer: Any = None
    optimizer: Any = None

    def __init__(self) -> None:
        self.shared = Lazy()
        self.rate = 1.0

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: EventConfigurationStartedContext) -> None:
        print(
            self.shared.lazy_total, self.optimizer and self.optimizer.state, self.optimizer.x if self.optimizer else 0
        )
        for each in self.optimizer or ():
            print(each)
        if self.writer is None:
            self.writer = io.StringIO()
        self.writer.write("begun")
        if self.optimizer is None:
            return
        self.optimizer.step()

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer
        self.writer = io.StringIO()
        self.shared.lazy_total = 5

    @subscribe(EVENT_TRAIN_READY)
    def ready(self, ctx: EventTrainReadyContext) -> None:
        self.scale = 1.0

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs * self.scale * self.rate, loss_weight=1.0)

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        self.seen = ctx.stepper.current_step

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}
