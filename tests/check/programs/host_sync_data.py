"""Waits for tensors of a batch or of outputs, whose types nothing shows, and behind attributes that may be `None`."""

import dataclasses
import functools
import os
from collections import deque

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter
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
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_OUTPUTS_READY, EventInferenceOutputsReadyContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventGradientsReadyContext,
    EventLossReadyContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongBatch(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        lengths = ctx.batch["lengths"]
        # E[d9d-host-sync]: "build_forward_inputs" calls "int()" on a tensor in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device
        #   with ".detach()"
        longest = int(lengths.max())
        # E[d9d-host-sync]: "build_forward_inputs" calls ".tolist()" on a tensor in every step, so each step waits for
        #   the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device
        #   with ".detach()"
        parts = torch.split(ctx.batch["tokens"], ctx.batch["counts"].tolist())
        return BuildForwardInputsResult(inputs={"tokens": parts[0][:longest]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        labels = ctx.batch["labels"]
        mask = labels != -100
        # E[d9d-host-sync]: "compute_loss" calls "torch.unique" on a tensor in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device
        #   with ".detach()"
        classes = torch.unique(labels)
        # E[d9d-host-sync]: "compute_loss" selects from a tensor with a mask in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device
        #   with ".detach()"
        loss = functional.cross_entropy(ctx.outputs[mask], labels)
        # E[d9d-host-sync]: "compute_loss" prints a tensor in every step, so each step waits for the device: do it only
        #   every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        print("largest", ctx.outputs.max(), classes)
        # E[d9d-host-sync]: "compute_loss" formats a tensor in every step, so each step waits for the device: do it only
        #   every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.text = f"{mask.sum()} tokens"
        # E[d9d-host-sync]: "compute_loss" tests whether a tensor is true in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or leave the choice to the device,
        #   as with torch.where
        if not mask.any():
            return ComputeLossResult(loss=ctx.outputs.sum() * 0, loss_weight=0.0)
        return ComputeLossResult(loss=loss, loss_weight=1.0)


class RightBatch(TrainTask):
    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        labels = ctx.batch["labels"]
        mask = labels >= 0
        rows = mask.sum(dim=1)
        if rows.shape[0] == 1 or len(rows) == 0 or ctx.batch["kind"] == "long":
            self.text = f"{rows.shape} {rows.dtype} {max(ctx.batch['lengths_on_host'])}"
        if ctx.evaluation is not None:
            print(ctx.outputs.max(), mask.any())
        losses = functional.cross_entropy(ctx.outputs, labels, reduction="none") * mask
        picked = ctx.outputs[torch.arange(labels.shape[0], device=labels.device), labels]
        values, _ = picked.max(dim=-1)
        loss = torch.where(mask.any(), losses.sum() / rows.sum(), values.sum())
        return ComputeLossResult(loss=loss, loss_weight=rows.sum())


class WrongWriter(Registering):
    def __init__(self) -> None:
        self.writer: SummaryWriter | None = None
        self.bar: tqdm | None = None

    @subscribe(EVENT_TRAIN_READY)
    def begin(self, ctx: EventTrainReadyContext) -> None:
        self.writer = SummaryWriter("runs")
        self.bar = tqdm(total=ctx.stepper.total_steps)

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        if self.writer is not None:
            # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") passes a tensor to
            #   ".add_scalar()" in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            self.writer.add_scalar("loss", ctx.loss, ctx.stepper.current_step)
        if not self.bar:
            return
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") passes a tensor to
        #   ".set_postfix()" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.bar.set_postfix(loss=ctx.loss)


class WrongPrevious(Registering):
    def __init__(self) -> None:
        self.previous: torch.Tensor | None = None

    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def compare(self, ctx: EventGradientsReadyContext) -> None:
        if self.previous is None:
            self.previous = ctx.norm.clone()
            return
        # E[d9d-host-sync]: Handler "compare" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls ".item()"
        #   on a tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        print((ctx.norm / self.previous).item())
        self.previous = ctx.norm.clone()


class RightPending(Registering):
    """What waits to be read is reset when it has been."""

    def __init__(self) -> None:
        self.pending: torch.Tensor | None = None
        self.swapped: torch.Tensor | None = None
        self.first: float | None = None

    @subscribe(EVENT_TRAIN_LOSS_READY, every=100)
    def put(self, ctx: EventLossReadyContext) -> None:
        self.pending = self.swapped = ctx.loss

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def keep_first(self, ctx: EventLossReadyContext) -> None:
        if self.first is None:
            self.first = ctx.loss.item()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def show(self, ctx: EventStepContext) -> None:
        if self.pending is not None:
            print(self.pending.item())
            self.forget(ctx.stepper.current_step)
        swapped, self.swapped = self.swapped, None
        if swapped is not None:
            print(swapped.item())

    def forget(self, step: int) -> None:
        self.seen = step
        self.next = step + 100
        self.pending = None


class WrongGenerators(Registering):
    def __init__(self) -> None:
        self.losses: deque[torch.Tensor] = deque(maxlen=10)

    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls
        #   "any()" on tensors, which tests whether they are true in every step, so each step waits for the device: do
        #   it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with
        #   ".detach()"
        if any(parameter.grad.isnan().any() for parameter in ctx.modules[0].parameters() if parameter.grad is not None):
            ctx.control.stop("a gradient is not a number")
        self.losses.append(ctx.norm)
        # E[d9d-host-sync]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls
        #   "sorted()" on tensors, which compares them in every step, so each step waits for the device: do it only
        #   every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.median = sorted(self.losses)[len(self.losses) // 2]


class RightKeys(Registering):
    """Iterating over a mapping yields its keys."""

    def __init__(self) -> None:
        self.logs: dict[str, torch.Tensor] = {}

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.logs["loss"] = ctx.loss
        for name in self.logs:
            print(name)
        print(sorted(self.logs), list(self.logs), min(self.logs), *self.logs)
        if all(name.islower() for name in self.logs) and any(self.logs):
            self.names = [f"{name}" for name in tuple(self.logs)]


class RightOutputs(InferenceTask):
    """A handler of outputs brings them to the host, as `process_outputs` does."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

    @subscribe(EVENT_INFERENCE_OUTPUTS_READY)
    def write(self, ctx: EventInferenceOutputsReadyContext) -> None:
        print(ctx.outputs.argmax(-1).tolist(), ctx.outputs.cpu())


@dataclasses.dataclass
class Process:
    rank: int = dataclasses.field(default_factory=lambda: int(os.environ.get("RANK", "0")))


@functools.lru_cache(maxsize=1)
def is_first() -> bool:
    return dist.get_rank() == 0


class WrongCachedRank(Registering):
    def __init__(self) -> None:
        self.process = Process()

    @subscribe(EVENT_TRAIN_FINISHED)
    def finish(self, ctx: EventTrainFinishedContext) -> None:
        if self.process.rank == 0:
            # E[d9d-collective]: Handler "finish" of EVENT_TRAIN_FINISHED ("train.finished") calls "barrier" on some
            #   ranks only, because "self.process.rank == 0" depends on the variable "RANK", which differs between
            #   ranks: these ranks wait forever for the others. Call it on every rank, and keep under the condition only
            #   what one rank does alone, such as printing or writing
            dist.barrier()
        if is_first():
            # E[d9d-collective]: Handler "finish" of EVENT_TRAIN_FINISHED ("train.finished") calls "all_reduce" on some
            #   ranks only, because "is_first()" depends on "get_rank", which differs between ranks: these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.all_reduce(torch.ones(()))
