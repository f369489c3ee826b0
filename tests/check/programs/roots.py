"""Everything that loops call in each step, and what belongs to a metric: no handler is needed to make a step wait."""

import logging
from typing import Any

import torch
import torch.distributed as dist
import wandb
from tqdm import tqdm

from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InferenceTask,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventConfigurationStartedContext, EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_EPOCH_FINISHED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_STEP_POST,
    EventEpochContext,
    EventLossReadyContext,
    EventOptimizerReadyContext,
)

logger = logging.getLogger(__name__)


class WrongInputs(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        # E[d9d-host-sync]: "build_forward_inputs" calls ".item()" on a tensor in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device
        #   with ".detach()"
        length = ctx.batch["lengths"].max().item()
        return BuildForwardInputsResult(inputs={"x": ctx.batch["x"][:, :length]})


class Accuracy:
    reduction = "sum"

    def __init__(self) -> None:
        self.total = 0.0

    def update(self, hits: torch.Tensor) -> None:
        # E[d9d-host-sync]: "update" calls "float()" on a tensor in every step, so each step waits for the device: do it
        #   only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.total += float(hits.sum())

    def share(self) -> torch.Tensor:
        return torch.tensor([self.total])

    def compute(self, reduced: torch.Tensor, /) -> float:
        return reduced.item()

    def reset(self) -> None:
        self.total = 0.0


class Perplexity:
    def add(self, loss: torch.Tensor) -> None:
        # E[d9d-host-sync]: "compute_loss" formats a tensor in every step, so each step waits for the device: do it only
        #   every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.text = f"{loss.exp():.2f}"


class WrongThroughMetric(TrainTask):
    def __init__(self) -> None:
        self.metrics = {"perplexity": Perplexity()}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = torch.nn.functional.cross_entropy(torch.rand(3, device="meta"), ctx.batch["labels"])
        self.metrics["perplexity"].add(loss)
        return ComputeLossResult(loss=loss)


class WrongLoss(TrainTask):
    names = ("low", "high")

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = torch.nn.functional.cross_entropy(ctx.outputs, ctx.batch["labels"])
        # E[d9d-host-sync]: "compute_loss" formats a tensor in every step, so each step waits for the device: do it only
        #   every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        print(f"loss {loss}")
        # E[d9d-host-sync]: "compute_loss" uses a tensor as an index in every step, so each step waits for the device:
        #   do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with
        #   ".detach()"
        self.name = self.names[(loss > 3).long()]
        return ComputeLossResult(loss=loss)


class WrongState(TrainTask):
    value: torch.Tensor

    def state_dict(self) -> dict[str, Any]:
        if dist.get_rank() == 0:
            # E[d9d-collective]: "state_dict" calls "all_reduce" on some ranks only, because "dist.get_rank() == 0"
            #   differs between ranks: these ranks wait forever for the others. Call it on every rank, and keep under
            #   the condition only what one rank does alone, such as printing or writing
            dist.all_reduce(self.value)
        return {"value": self.value}


class WrongOfEvaluation(InferenceTask):
    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        if ctx.batch["documents"].size(0) == 0:
            return
        gathered: list[Any] = []
        # E[d9d-collective]: "process_outputs" calls "all_gather" on some ranks only, because
        #   "ctx.batch['documents'].size(0) == 0" differs between ranks: these ranks wait forever for the others. Call
        #   it on every rank, and keep under the condition only what one rank does alone, such as printing or writing
        dist.all_gather(gathered, ctx.outputs)


class WrongTools(TrainTask):
    def __init__(self) -> None:
        self.bar = tqdm(total=10)

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def on_start(self, ctx: EventConfigurationStartedContext) -> None:
        self.log = ctx.dist_context.logger("losses")

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") passes a tensor to
        #   "wandb.log" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        wandb.log({"loss": ctx.loss})
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") passes a tensor to
        #   ".set_postfix()" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.bar.set_postfix(loss=ctx.loss)
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") logs a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        self.log.info("loss %s", ctx.loss)
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "torch.where" on a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        (self.large,) = torch.where(ctx.loss > 3)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        torch.save({"step": ctx.stepper.current_step}, "step.pt")
        model: torch.nn.Module = torch.nn.Linear(1, 1)
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "torch.save" on a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        torch.save({"model": model.state_dict()}, "latest.pt")
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "float()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.scale = float(model.logit_scale)


class WrongOptimizer(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "torch.save" on a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        torch.save(self.optimizer.state_dict(), "optimizer.pt")


class RightMetric:
    reduction = "sum"

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros(1, device=device)

    def update(self, hits: torch.Tensor) -> None:
        self.total += hits.sum()

    def share(self) -> torch.Tensor:
        return self.total

    def compute(self, reduced: torch.Tensor, /) -> float:
        return reduced.item()

    def reset(self) -> None:
        self.total.zero_()


class RightTask(TrainTask):
    last: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"x": ctx.batch["x"].to(torch.float32)})

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last.item()}

    @subscribe(EVENT_TRAIN_EPOCH_FINISHED)
    def on_epoch(self, ctx: EventEpochContext) -> None:
        logger.info("loss %s after a pass", self.last)


class RightOutputs(InferenceTask):
    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        for row, index in zip(ctx.outputs.tolist(), ctx.samples, strict=True):
            print(index, row)
        self.rows = ctx.outputs.cpu()
