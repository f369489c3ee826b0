"""Handlers of every step that keep tensors, contexts or hooks of each step for ever."""

from collections import deque
from typing import Any

import torch

from d9d.loop.control import ComputeLossContext, ComputeLossResult, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventGradientsReadyContext,
    EventLossReadyContext,
    EventReportReadyContext,
    EventTrainReadyContext,
)

NORMS: list[torch.Tensor] = []


class Registering(TrainTask):
    modules: list[torch.nn.Module]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongList(Registering):
    def __init__(self) -> None:
        self.wrong_losses: list[torch.Tensor] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-held]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") adds a tensor to "wrong_losses"
        #   in every step, and nothing empties it, so memory of the device fills up: add a number with .item() every N
        #   steps, use a deque with maxlen, or clear it
        self.wrong_losses.append(ctx.loss)
        if ctx.stepper.is_due(100):
            print(torch.stack(self.wrong_losses).mean().item(), len(self.wrong_losses))


class WrongGlobal(Registering):
    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        # E[d9d-held]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") adds a tensor to
        #   "NORMS" in every step, and nothing empties it, so memory of the device fills up: add a number with .item()
        #   every N steps, use a deque with maxlen, or clear it
        NORMS.append(ctx.norm)


class WrongRowsThroughHelper(Registering):
    def __init__(self) -> None:
        self.wrong_rows: list[tuple[int, Any]] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self._keep(ctx.stepper.current_step, ctx.outputs)

    def _keep(self, step: int, outputs: Any) -> None:
        # E[d9d-held]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") adds the "outputs" of each rank
        #   to "wrong_rows" in every step, and nothing empties it, so memory of the device fills up: add a number with
        #   .item() every N steps, use a deque with maxlen, or clear it
        self.wrong_rows.append((step, outputs))


class WrongByStep(Registering):
    def __init__(self) -> None:
        self.wrong_by_step: dict[int, torch.Tensor] = {}

    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        # E[d9d-held]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") adds a tensor to
        #   "wrong_by_step" in every step, and nothing empties it, so memory of the device fills up: add a number with
        #   .item() every N steps, use a deque with maxlen, or clear it
        self.wrong_by_step[ctx.stepper.current_step] = ctx.norm


class WrongContexts(Registering):
    def __init__(self) -> None:
        self.wrong_contexts: list[EventLossReadyContext] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-held]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") adds the "EventLossReadyContext"
        #   to "wrong_contexts" in every step, and nothing empties it, so memory of the device fills up: add a number
        #   with .item() every N steps, use a deque with maxlen, or clear it
        self.wrong_contexts.append(ctx)


class WrongContextOfOtherEvent(Registering):
    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        # E[d9d-held]: Handler "on_gradients" of EVENT_TRAIN_GRADIENTS_READY ("train.gradients.ready") keeps the whole
        #   "EventGradientsReadyContext" for handler "before" of EVENT_TRAIN_OPTIMIZER_STEP_PRE
        #   ("train.optimizer_step.pre"), and with it everything that it holds on the device: keep only the fields that
        #   are read later, such as norm
        self.gradients = ctx

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        self.norm = self.gradients.norm


class WrongHooks(Registering):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        for module in self.modules:
            # E[d9d-held]: Handler "before" of EVENT_TRAIN_STEP_PRE ("train.step.pre") calls "register_forward_hook" in
            #   every step, and nothing removes the hooks, so there is one more with each step: register it once, or
            #   call remove() on what it returns
            module.register_forward_hook(print)


class Right(Registering):
    def __init__(self) -> None:
        self.cleared: list[torch.Tensor] = []
        self.replaced: list[torch.Tensor] = []
        self.bounded: list[torch.Tensor] = []
        self.sliced: list[torch.Tensor] = []
        self.recent: deque[torch.Tensor] = deque(maxlen=100)
        self.by_slot: dict[int, torch.Tensor] = {}
        self.numbers: list[float] = []

    @subscribe(EVENT_TRAIN_READY)
    def ready(self, ctx: EventTrainReadyContext) -> None:
        self.context = ctx
        ctx.modules[0].register_forward_hook(print)

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.cleared.append(ctx.loss)
        self.replaced.append(ctx.loss)
        self.sliced.append(ctx.loss)
        del self.sliced[:-100]
        self.recent.append(ctx.loss)
        show(call=1, item=1, name=2, attribute=3, compare=4, constant=5)
        self.by_slot[ctx.stepper.current_step % 10] = ctx.loss
        if len(self.bounded) < 100:
            self.bounded.append(ctx.loss)
        self.last = ctx.loss
        parts = [ctx.loss]
        for module in self.modules:
            if module.training:
                parts.append(next(module.parameters()).sum())  # noqa: PERF401 -- as a comprehension it is another case
        self.sum = torch.stack(parts)

    @subscribe(EVENT_TRAIN_LOSS_READY, every=100)
    def sometimes(self, ctx: EventLossReadyContext) -> None:
        self.sampled = [*getattr(self, "sampled", []), ctx.loss]

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        empty(self.cleared)
        losses, self.replaced = self.replaced, []
        self.mean = torch.stack(losses).mean()
        self.total = getattr(self, "last", 0.0) + len(self.context.modules)

    @subscribe(EVENT_TRAIN_REPORT_READY)
    def on_report(self, ctx: EventReportReadyContext) -> None:
        self.numbers.append(ctx.report["loss"])


def show(**numbers: int) -> None:
    print(numbers)


def empty(values: list[torch.Tensor]) -> None:
    values.clear()


class RightContext(Registering):
    gradients: EventGradientsReadyContext | None = None

    @subscribe(EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: EventGradientsReadyContext) -> None:
        self.gradients = ctx

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        if self.gradients is not None:
            self.norm = self.gradients.norm
        self.gradients = None


class WrongReturnedLoss(Registering):
    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion
        self.wrong_returned: list[Any] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = self.criterion(ctx.outputs, ctx.batch)
        # E[d9d-held]: "compute_loss" adds the loss to "wrong_returned" in every step, with the graph that has computed
        #   it, and nothing empties it, so memory of the device fills up: add loss.detach() and clear the list, or use a
        #   deque with maxlen
        self.wrong_returned.append(loss)
        return ComputeLossResult(loss=loss.mean(), loss_weight=len(ctx.batch))


class RightReturnedLoss(Registering):
    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion
        self.right_recent: deque[Any] = deque(maxlen=10)
        self.right_numbers: list[Any] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        count = len(ctx.batch)
        loss = self.criterion(ctx.outputs, ctx.batch)
        self.right_recent.append(loss)
        self.right_numbers.append(count)
        return ComputeLossResult(loss=loss / count)


class WrongPrivate(Registering):
    def __init__(self) -> None:
        self.__wrong: list[torch.Tensor] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-held]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") adds a tensor to "__wrong" in
        #   every step, and nothing empties it, so memory of the device fills up: add a number with .item() every N
        #   steps, use a deque with maxlen, or clear it
        self.__wrong.append(ctx.loss)


class RightPrivate(Registering):
    def __init__(self) -> None:
        self.__right: list[torch.Tensor] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.__right.append(ctx.loss)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def clear(self, ctx: EventStepContext) -> None:
        self.__right.clear()
