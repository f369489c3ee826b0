"""Waits and collectives in what Python and its library call by themselves: special methods, and functions as keys."""

import functools
import time
from typing import Self

import torch
import torch.distributed as dist

from d9d.core.dist_context import DistributedContext
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_STEP_POST,
    EventGradientsReadyContext,
    EventLossReadyContext,
)


class Registering(TrainTask):
    dist_context: DistributedContext

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongTimer:
    def __enter__(self) -> Self:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls
        #   "torch.accelerator.synchronize" in every step, so each step waits for the device: do it only every N steps,
        #   as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        torch.accelerator.synchronize()
        self.elapsed = time.perf_counter() - self.start


class WrongTimed(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        with WrongTimer():
            if ctx.stepper.is_due(10):
                return


class RightTimer:
    def __enter__(self) -> Self:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.elapsed = time.perf_counter() - self.start


class RightTimed(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        with RightTimer() as timer:
            pass
        print(timer.elapsed)
        if ctx.stepper.is_due(10):
            with WrongTimer():
                pass


class Together:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "barrier" on some
        #   ranks only, because "self.dist_context.is_main_process" differs between ranks: these ranks wait forever for
        #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.barrier()


class WrongAlone(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.dist_context.is_main_process:
            with Together():
                print("one rank alone")


class RightTogether(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        with Together():
            if self.dist_context.is_main_process:
                print("all ranks leave the block")


class Meter:
    def __init__(self) -> None:
        self.last = torch.zeros((), device="meta")
        self.num_seen = 0

    def __str__(self) -> str:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls ".item()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        return f"{self.last.item():.3f}"

    def __getitem__(self, name: str) -> float:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls ".item()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        return self.last.item() if name == "last" else 0.0

    def __contains__(self, limit: float) -> bool:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "bool()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        return bool(self.last < limit)

    def __len__(self) -> int:
        return self.num_seen


class WrongShown(Registering):
    def __init__(self) -> None:
        self.meter = Meter()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.meter.last = ctx.loss
        print(f"loss {self.meter}")


class RightShown(Registering):
    def __init__(self) -> None:
        self.meter = Meter()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.meter.last = ctx.loss
        print(f"{len(self.meter)} losses")
        if ctx.stepper.is_due(10):
            print(self.meter, str(self.meter), self.meter["last"])


class WrongItem(Registering):
    def __init__(self) -> None:
        self.meter = Meter()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.meter.last = ctx.loss
        self.kept = self.meter["last"], 3.0 in self.meter


class WrongKey(Registering):
    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        named = [(name, each.grad) for name, each in ctx.modules[0].named_parameters() if each.grad is not None]
        # E[d9d-host-sync]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls
        #   ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps, as under
        #   "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.largest = max(named, key=lambda pair: pair[1].norm().item())[0]
        # E[d9d-host-sync]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls
        #   "float()" on a tensor in every step, so each step waits for the device: do it only every N steps, as under
        #   "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        named.sort(key=lambda pair: float(pair[1].sum()))
        # E[d9d-host-sync]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls
        #   ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps, as under
        #   "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.bad = [name for name, _ in filter(lambda pair: pair[1].isnan().any().item(), named)]
        # E[d9d-host-sync]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") calls
        #   ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps, as under
        #   "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.total = functools.reduce(lambda total, pair: total + pair[1].sum().item(), named, 0.0)


class RightKey(Registering):
    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        named = [(name, each.grad) for name, each in ctx.modules[0].named_parameters() if each.grad is not None]
        self.largest = max(named, key=lambda pair: pair[1].numel())[0]
        named.sort(key=lambda pair: pair[0])
        self.wide = [name for name, _ in filter(lambda pair: pair[1].ndim > 1, named)]
        self.total = functools.reduce(lambda total, pair: total + pair[1].numel(), named, 0)
