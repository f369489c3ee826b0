"""A list with the name of a field of the context that fills it."""

from typing import Any

from d9d.loop.control import ComputeLossContext, ComputeLossResult, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_LOSS_READY, EventLossReadyContext


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.mean())


class WrongNamedAsAField(Registering):
    def __init__(self) -> None:
        self.outputs: list[Any] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        # E[d9d-held]: Handler "on_loss" of EVENT_TRAIN_LOSS_READY ("train.loss.ready") adds the "outputs" of each rank
        #   to "outputs" in every step, and nothing empties it, so memory of the device fills up: add a number with
        #   .item() every N steps, use a deque with maxlen, or clear it
        self.outputs.append(ctx.outputs)


class RightCleared(Registering):
    def __init__(self) -> None:
        self.batch: list[Any] = []

    @subscribe(EVENT_TRAIN_LOSS_READY)
    def on_loss(self, ctx: EventLossReadyContext) -> None:
        self.batch.clear()
        self.batch.append(ctx.batch)
