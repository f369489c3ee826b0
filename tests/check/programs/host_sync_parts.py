"""Waits for tensors in mappings, in sums, and within modules of the program that a task calls."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from d9d.loop.control import ComputeLossContext, ComputeLossResult, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_LOSS_READY, EventLossReadyContext


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongCriterion(nn.Module):
    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # E[d9d-host-sync]: "compute_loss" tests whether a tensor is true in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or leave the choice to the device,
        #   as with torch.where
        if not (labels >= 0).all():
            raise ValueError("a label is missing")
        return functional.cross_entropy(logits, labels)


class WrongLoss(Registering):
    def __init__(self) -> None:
        self.criterion = WrongCriterion()

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=self.criterion(ctx.outputs, ctx.batch["labels"]))


class RightCriterion(nn.Module):
    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if logits.shape[0] != labels.shape[0]:
            raise ValueError(f"{logits.shape[0]} predictions for {labels.shape[0]} labels")
        return functional.cross_entropy(logits, labels)


class RightLoss(Registering):
    def __init__(self) -> None:
        self.criterion = RightCriterion()

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=self.criterion(ctx.outputs, ctx.batch["labels"]))


class WrongTotals(Registering):
    def __init__(self) -> None:
        self.totals: dict[str, Any] = {"loss": 0.0, "steps": 0}
        self.latest: dict[str, Any] = {"loss": None}

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.totals["loss"] += ctx.loss
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(self.totals["loss"])
        self.latest["loss"] = ctx.loss
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(self.latest["loss"])
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") formats a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(f"{sum([ctx.loss, ctx.loss]) / 2:.3f}")


class RightTotals(Registering):
    def __init__(self) -> None:
        self.totals: dict[str, Any] = {"loss": 0.0, "tokens": 0}
        self.latest: dict[str, Any] = {}

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.totals["loss"] += ctx.loss
        self.totals["tokens"] += ctx.batch["tokens"].numel()
        print(self.totals["tokens"])
        self.latest["loss"] = ctx.loss
        self.latest["step"] = ctx.stepper.current_step
        print(self.latest["step"])
        print(sum(each.numel() for each in [ctx.loss, ctx.loss]))
