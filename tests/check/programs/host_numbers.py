"""Waits for tensors that Python needs as numbers or as text: sizes, bounds, indices, rows of a table."""

import csv
import logging
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from loguru import logger as loguru_logger

from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventModelStagesReadyContext, EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventLossReadyContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)
from d9d.loop.run import Trainer

logger = logging.getLogger(__name__)
LABELS = ["cat", "dog"]


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongSizes(Registering):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        lengths = ctx.batch["lengths"]
        # E[d9d-host-sync]: "build_forward_inputs" passes a tensor as a number to "torch.arange" in every step, so each
        #   step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the
        #   tensor on the device with ".detach()"
        positions = torch.arange(lengths.max(), device=lengths.device)
        # E[d9d-host-sync]: "build_forward_inputs" passes a tensor as a number to "torch.zeros" in every step, so each
        #   step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the
        #   tensor on the device with ".detach()"
        room = torch.zeros(4, lengths.sum(), device=lengths.device)
        return BuildForwardInputsResult(inputs={"positions": positions, "room": room})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        parts = [ctx.outputs.mean(), ctx.outputs.sum()]
        # E[d9d-host-sync]: "compute_loss" passes a tensor as a number to "torch.tensor" in every step, so each step
        #   waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on
        #   the device with ".detach()"
        return ComputeLossResult(loss=torch.tensor(parts).mean())


class WrongBounds(Registering):
    tokens: torch.Tensor

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        longest = ctx.batch["mask"].sum(1).max()
        # E[d9d-host-sync]: "build_forward_inputs" uses a tensor as the bound of a slice in every step, so each step
        #   waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on
        #   the device with ".detach()"
        return BuildForwardInputsResult(inputs={"tokens": ctx.batch["tokens"][:, :longest]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        mask = ctx.batch["labels"] != -100
        # E[d9d-host-sync]: "compute_loss" selects from a tensor with a mask in every step, so each step waits for the
        #   device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device
        #   with ".detach()"
        return ComputeLossResult(loss=ctx.outputs[0, mask].mean())

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") uses a tensor as the bound of
        #   a slice in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.first = self.tokens[: self.tokens.argmax()]


class WrongLookups(Registering):
    def __init__(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        tokens: torch.Tensor = ctx.batch["tokens"]
        # E[d9d-host-sync]: "build_forward_inputs" searches a tensor in every step, so each step waits for the device:
        #   do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with
        #   ".detach()"
        return BuildForwardInputsResult(inputs={"tokens": tokens, "is_padded": 0 in tokens})

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        best = ctx.outputs.argmax(-1)
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") uses a tensor as an index
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.counts[LABELS[best[0]]] += 1


class WrongTexts(Registering):
    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None:
        self.rows = csv.writer(sys.stdout)

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") passes a tensor to
        #   ".writerow()" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.rows.writerow([ctx.stepper.current_step, ctx.loss])
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") logs a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        loguru_logger.info("loss {}", ctx.loss)


class WrongWeights(Registering):
    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def keep(self, ctx: EventModelStagesReadyContext) -> None:
        self.model: Any = ctx.modules[0]
        self.bias = ctx.modules[0].get_parameter("head.bias")

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "torch.equal" on a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        if not torch.equal(self.model.embedding.weight, self.model.head.weight):
            raise RuntimeError("the weights are no longer tied")
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print("bias", self.bias)


class WrongDeclared(Registering):
    def __init__(self) -> None:
        self.logits: torch.Tensor | None = None

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.logits = ctx.outputs["logits"]
        return ComputeLossResult(loss=ctx.outputs["loss"])

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.logits is not None:
            # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") prints a tensor in every
            #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):",
            #   or keep the tensor on the device with ".detach()"
            print(self.logits)

    def entropy(self, logits: torch.Tensor) -> torch.Tensor:
        # E[d9d-host-sync]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") logs a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        logger.info("logits %s", logits)
        return torch.special.entr(logits.softmax(-1)).sum()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.value = self.entropy(ctx.outputs)


class WrongExporter:
    def __init__(self) -> None:
        self.trainer: Trainer | None = None

    @subscribe(EVENT_TRAIN_FINISHED, main_process_only=True, optional=True)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        if self.trainer is not None:
            # E[d9d-collective]: Handler "on_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "export" on some
            #   ranks only, because only the main process calls this handler (main_process_only=True): these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            self.trainer.export(Path("weights"))


class RightNumbers(Registering):
    def __init__(self) -> None:
        self.order = torch.randperm(100)
        self.counts: dict[str, int] = {}
        self.copy: torch.Tensor | None = None
        self.seen: dict[str, torch.Tensor] = {}

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        tokens: torch.Tensor = ctx.batch["tokens"]
        half, number = tokens.shape[1] // 2, len(ctx.batch["texts"])
        positions = torch.arange(half, device=tokens.device)
        room = torch.zeros(tokens.size(0), number, device=tokens.device)
        lengths = torch.tensor([len(text) for text in ctx.batch["texts"]])
        picked = self.order[: int(self.order.max())]
        inputs = {"tokens": tokens[:, :half], "room": room, "positions": positions, "lengths": lengths, "rows": picked}
        return BuildForwardInputsResult(inputs=inputs)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def show(self, ctx: EventStepContext) -> None:
        if self.copy is not None:
            print(self.copy.item(), LABELS[ctx.stepper.current_step % len(LABELS)])

    @subscribe(EVENT_TRAIN_LOSS_READY, every=10)
    def keep(self, ctx: EventLossReadyContext) -> None:
        self.copy = ctx.loss.cpu()

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        if "loss" not in self.seen and ctx.loss.dtype not in {torch.float16, torch.bfloat16}:
            self.seen["loss"] = ctx.loss
        self.counts[ctx.batch["source"][0]] += ctx.batch["tokens"].shape[0]
