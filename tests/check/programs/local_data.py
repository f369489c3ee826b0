"""Collectives that depend on the data of one rank: its batch, its loss, its files, its device, its clock."""

import datetime as dt
import socket
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from d9d import Trainer
from d9d.core.dist_context import DistributedContext
from d9d.loop.control import ComputeLossContext, ComputeLossResult, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventReportReadyContext, EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_STEP_POST,
    EventGradientsReadyContext,
    EventLossReadyContext,
)


class Registering(TrainTask):
    dist_context: DistributedContext
    trainer: Trainer
    loss: torch.Tensor
    value: torch.Tensor
    model: torch.nn.Module
    best = 10.0

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongLoss(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY, every=10)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        if ctx.loss.item() > 100:
            # E[d9d-collective]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "barrier" on
            #   some ranks only, because "ctx.loss.item() > 100" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.barrier()


class WrongThroughAttribute(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY)
    def keep(self, ctx: EventLossReadyContext) -> None:
        self.last = ctx.loss.detach()

    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        value = float(self.last)
        if value < self.best:
            self.best = value
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "save" on some
            #   ranks only, because "value < self.best" depends on the "loss" of each rank, which differs between ranks:
            #   these ranks wait forever for the others. Call it on every rank, and keep under the condition only what
            #   one rank does alone, such as printing or writing
            self.trainer.save()


class WrongDeclared(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.loss.item() > 3:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "self.loss.item() > 3" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.all_reduce(self.loss)


class WrongBatches(Registering):
    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = ctx.outputs.mean()
        if ctx.batch["x"].shape[0] < 8:
            return ComputeLossResult(loss=loss)
        # E[d9d-collective]: "compute_loss" calls "all_reduce" on some ranks only, because "ctx.batch['x'].shape[0] < 8"
        #   differs between ranks: these ranks wait forever for the others. Call it on every rank, and keep under the
        #   condition only what one rank does alone, such as printing or writing
        dist.all_reduce(self.value)
        return ComputeLossResult(loss=loss)

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        for number in range(len(ctx.batch["images"])):
            # E[d9d-collective]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "broadcast" on
            #   some ranks only, because the "batch" of each rank differs between ranks: these ranks wait forever for
            #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.broadcast(self.value[number], src=0)
        for _, document in enumerate(ctx.batch.documents):
            # E[d9d-collective]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "all_reduce" on
            #   some ranks only, because the "batch" of each rank differs between ranks: these ranks wait forever for
            #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.all_reduce(document.scores)
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") tests whether a tensor is
        #   true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if not ctx.batch["mask"].any():
            return
        # E[d9d-collective]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "all_reduce" on some
        #   ranks only, because "not ctx.batch['mask'].any()" differs between ranks: these ranks wait forever for the
        #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as printing
        #   or writing
        dist.all_reduce(self.value)


class WrongMachines(Registering):
    began = dt.datetime.now(tz=dt.UTC)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_memory(self, ctx: EventStepContext) -> None:
        if torch.accelerator.memory_allocated() > 10_000:
            # E[d9d-collective]: Handler "on_memory" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "torch.accelerator.memory_allocated() > 10_000" differs between ranks: these
            #   ranks wait forever for the others. Call it on every rank, and keep under the condition only what one
            #   rank does alone, such as printing or writing
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_name(self, ctx: EventStepContext) -> None:
        if socket.gethostname().startswith("node-0"):
            # E[d9d-collective]: Handler "on_name" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "socket.gethostname().startswith('node-0')" differs between ranks: these ranks
            #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_minute(self, ctx: EventStepContext) -> None:
        if (dt.datetime.now(tz=dt.UTC) - self.began).total_seconds() > 60:
            # E[d9d-collective]: Handler "on_minute" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "datetime.datetime.now" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_draw(self, ctx: EventStepContext) -> None:
        if np.random.rand() < 0.5:
            # E[d9d-collective]: Handler "on_draw" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "np.random.rand() < 0.5" differs between ranks: these ranks wait forever for
            #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_files(self, ctx: EventStepContext) -> None:
        for _ in (Path("out") / "shards").glob("*.pt"):
            # E[d9d-collective]: Handler "on_files" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "Path.glob" differs between ranks: these ranks wait forever for the others.
            #   Call it on every rank, and keep under the condition only what one rank does alone, such as printing or
            #   writing
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_found_files(self, ctx: EventStepContext) -> None:
        names = [path for path in Path("out").iterdir() if path.suffix == ".pt"]
        for _ in sorted(names):
            # E[d9d-collective]: Handler "on_found_files" of EVENT_TRAIN_STEP_POST ("train.step.post") calls
            #   "all_reduce" on some ranks only, because "Path.iterdir" differs between ranks: these ranks wait forever
            #   for the others. Call it on every rank, and keep under the condition only what one rank does alone, such
            #   as printing or writing
            dist.all_reduce(self.value)


class WrongSets(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def in_a_list(self, ctx: EventStepContext) -> None:
        names = {name for name, _ in self.model.named_parameters()}
        for name in list(names):
            # E[d9d-collective]: Handler "in_a_list" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "broadcast" on
            #   some ranks only, because the order of a set of strings differs between ranks: these ranks wait forever
            #   for the others. Call it on every rank, and keep under the condition only what one rank does alone, such
            #   as printing or writing
            dist.broadcast(self.model.get_parameter(name), src=0)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def in_a_difference(self, ctx: EventStepContext) -> None:
        for name in {"first", "second"} - {"third"}:
            # E[d9d-collective]: Handler "in_a_difference" of EVENT_TRAIN_STEP_POST ("train.step.post") calls
            #   "broadcast" on some ranks only, because the order of a set of strings differs between ranks: these ranks
            #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.broadcast(getattr(self, name), src=0)


class RightReduced(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY, every=10)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        mean = ctx.loss.clone()
        dist.all_reduce(mean)
        if mean.item() > 100:
            self.trainer.save()
        for name, value in ctx.batch.items():
            dist.all_reduce(value)
            print(name)
        for name in ctx.batch:
            dist.all_reduce(ctx.batch[name])
        if "labels" in ctx.batch and ctx.outputs is not None:
            dist.all_reduce(ctx.batch["labels"])

    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def with_flags(self, ctx: EventStepContext) -> None:
        flags = [time.monotonic() > 100]
        dist.broadcast_object_list(flags, src=0)
        if flags[0]:
            dist.all_reduce(self.value)
        flag = torch.tensor([time.monotonic() > 100], device=self.dist_context.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if flag.item():
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_REPORT_READY)
    def on_report(self, ctx: EventReportReadyContext) -> None:
        if ctx.report.metrics["loss"] < self.best:
            self.trainer.save()

    @subscribe(EVENT_TRAIN_GRADIENTS_READY, every=10)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        if ctx.norm.item() > 100:
            dist.barrier()


class RightHelpers(Registering):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def _mean(self, value: torch.Tensor) -> torch.Tensor:
        if not dist.is_initialized():
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @subscribe(EVENT_TRAIN_LOSS_READY, every=10)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        if self._mean(ctx.loss).item() > 3:
            dist.barrier()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self.seconds.append(time.perf_counter())
        if len(self.seconds) < 20:
            return
        mean = torch.tensor(sum(self.seconds) / len(self.seconds))
        dist.all_reduce(mean)
        self.seconds.clear()


class RightStop(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY, every=10)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        if ctx.loss.item() > 100:
            ctx.control.stop("the loss diverged")
            return
        if self.dist_context.is_main_process:
            ctx.control.save()


class RightLater(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.loss.item() > 3:
            dist.barrier()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def keep(self, ctx: EventLossReadyContext) -> None:
        mean = torch.stack([ctx.loss])
        dist.all_reduce(mean)
        self.loss = torch.zeros(1, device=mean.device) + self.value
