"""Handlers of every step that make the host wait for the device, and those that do not."""

import logging
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from d9d.core.dist_context import DistributedContext
from d9d.loop.control import ComputeLossContext, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_STEP_POST,
    EventTrainFinishedContext,
    EventTrainLossReadyContext,
)

logger = logging.getLogger(__name__)


class Registering(TrainTask):
    dist_context: DistributedContext
    model: torch.nn.Module
    mean: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongReads(Registering):
    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventTrainLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") calls "float()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.latest = float(ctx.loss)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        for name, parameter in self.model.named_parameters():
            # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") formats a tensor in every
            #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):",
            #   or keep the tensor on the device with ".detach()"
            self.line = f"{name}: {parameter.norm()}"


class Writer:
    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def write(self, value: torch.Tensor, step: int) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") passes a tensor to
        #   ".add_scalar()" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self._writer.add_scalar("mean", value, step)


class WrongThroughObject(Registering):
    def __init__(self) -> None:
        self.writer = Writer(SummaryWriter())

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.dist_context.is_main_process:
            self.writer.write(self.mean, 0)


class WrongLoss(Registering):
    def compute_loss(self, ctx: ComputeLossContext) -> Any:
        loss = torch.nn.functional.mse_loss(self.mean, self.mean)
        # E[d9d-host-sync]: "compute_loss" tests whether a tensor is true in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or leave the choice to the device,
        #   as with torch.where
        if torch.isnan(loss):
            raise ValueError("the loss is not a number")
        return loss


def wrong_by_hand(bus: EventBus, scale: torch.Tensor) -> None:
    def on_step(ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".cpu()" on a tensor in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        print(scale.cpu().tolist())

    bus.subscribe(EVENT_TRAIN_STEP_POST, on_step)


class WrongTexts(Registering):
    losses: list[torch.Tensor]

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") formats a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        self.line = "mean %.3f" % self.mean
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print("losses", self.losses)
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "min()" on tensors,
        #   which compares them in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.best = min(self.losses)


class RightOnce(Registering):
    first: float | None = None
    is_shown = False

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.first is None:
            self.first = self.mean.item()
        if not self.is_shown:
            self.is_shown = True
            print(self.mean)


class Right(Registering):
    best: torch.Tensor | None = None

    @subscribe(EVENT_TRAIN_STEP_POST)
    def when_due(self, ctx: EventStepContext) -> None:
        if not (self.dist_context.is_main_process and ctx.stepper.is_due(10)):
            return
        self._log(self.mean)

    def _log(self, value: torch.Tensor) -> None:
        logger.info("mean %s", value.item())

    @subscribe(EVENT_TRAIN_STEP_POST, every=20)
    def filtered(self, ctx: EventStepContext) -> None:
        print(self.mean)

    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        print(self.mean.item())

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_device(self, ctx: EventStepContext) -> None:
        if self.best is None:
            self.best = self.mean.detach().clone()
        torch.minimum(self.best, self.mean, out=self.best)
        logger.info("shape %s on %s", self.mean.shape, self.mean.device)
        counts = torch.zeros(3)
        print(counts.sum().item(), int("3"), str(ctx))

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_host(self, ctx: EventStepContext) -> None:
        self.copy = self.mean.to("cpu", non_blocking=True)
        for name, count in {"a": 1}.items():
            print(name, float(count))


class RightKeys(Registering):
    means: dict[str, torch.Tensor]

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventTrainLossReadyContext) -> None:
        parts = {"loss": ctx.loss, "outputs": ctx.outputs}
        for name in parts:
            logger.info("has %s", name)
        for name in self.model.state_dict():
            if name.endswith("bias"):
                logger.info("has %s", name)
        for name in sorted(self.means):
            logger.info("has %s", name)


class WrongKeys(Registering):
    means: dict[str, torch.Tensor]

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventTrainLossReadyContext) -> None:
        for name in self.means:
            # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") logs a tensor in every
            #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):",
            #   or keep the tensor on the device with ".detach()"
            logger.info("%s %s", name, self.means[name])
