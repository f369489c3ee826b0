"""Waits under conditions that hold in almost every step, and under those that hold in few."""

import time

import torch

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_LOSS_READY, EventLossReadyContext


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongBest(Registering):
    def __init__(self) -> None:
        self.best: torch.Tensor | None = None

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") tests whether a tensor is
        #   true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if self.best is None or ctx.loss < self.best:
            self.best = ctx.loss


class WrongSpike(Registering):
    def __init__(self) -> None:
        self.last: torch.Tensor | None = None

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") tests whether a tensor is
        #   true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if self.last is not None and ctx.loss > 2 * self.last:
            print("spike")
        self.last = ctx.loss


class RightBest(Registering):
    def __init__(self) -> None:
        self.best: float | None = None
        self.started: float | None = None

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        if self.best is None or ctx.stepper.is_due(100):
            self.best = ctx.loss.item()
        if self.started is not None and time.monotonic() - self.started > 60:
            print(ctx.loss.item())
            self.started = None
        self.started = self.started or time.monotonic()


class WrongUnlessDue(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") tests whether a tensor is
        #   true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if ctx.stepper.is_due(100) or ctx.loss > 20:
            print("large, or every hundredth")
        if ctx.stepper.is_last:
            print("done")
        else:
            # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") prints a tensor in
            #   every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            print(ctx.loss)


class WrongChosen(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "str()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.text = "end" if ctx.stepper.is_last else str(ctx.loss)


class RightWhenDue(Registering):
    def __init__(self) -> None:
        self.total = torch.zeros((), device="meta")

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        value = ctx.loss.item() if ctx.stepper.is_due(10) else None
        is_quiet = not ctx.stepper.is_due(10)
        if is_quiet:
            self.total = self.total + ctx.loss
            return
        print(value, self.total)

    def is_quiet(self, ctx: EventLossReadyContext) -> bool:
        return not (ctx.stepper.is_due(10) or ctx.stepper.is_last)

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def print_loss(self, ctx: EventLossReadyContext) -> None:
        if self.is_quiet(ctx) or (ctx.stepper.is_due(20) is False):
            return
        print(ctx.loss)
