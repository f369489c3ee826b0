"""Ranks that a constructor is given: its object differs between ranks, and no other object of its class does."""

import dataclasses
from pathlib import Path

import torch.distributed as dist

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventTrainFinishedContext


class WrongSaver:
    def __init__(self, rank: int) -> None:
        self.rank = rank

    @subscribe(EVENT_TRAIN_FINISHED)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        if self.rank == 0:
            # E[d9d-collective]: Handler "on_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "barrier" on some
            #   ranks only, because "self.rank == 0" depends on "get_rank", which differs between ranks: these ranks
            #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.barrier()


@dataclasses.dataclass
class WrongWriter:
    is_first: bool
    folder: Path = Path("out")

    @subscribe(EVENT_TRAIN_FINISHED)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        if not self.is_first:
            return
        self.folder.mkdir()
        # E[d9d-collective]: Handler "on_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "barrier" on some ranks
        #   only, because "not self.is_first" depends on "is_main_process", which differs between ranks: these ranks
        #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank does
        #   alone, such as printing or writing
        dist.barrier()


@dataclasses.dataclass
class RightWriter:
    is_first: bool

    @subscribe(EVENT_TRAIN_FINISHED)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        dist.barrier()
        if self.is_first:
            Path("done").touch()


class Gate:
    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open

    def print(self, text: str) -> None:
        if self.is_open:
            print(text)

    def meet(self) -> None:
        if self.is_open:
            dist.barrier()


class Task(TrainTask):
    def __init__(self) -> None:
        self.saver = WrongSaver(dist.get_rank())

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.rank_zero = Gate(is_open=ctx.dist_context.is_main_process)
        self.all_ranks = Gate(is_open=True)
        for each in (self, self.saver, RightWriter(ctx.dist_context.is_main_process)):
            subscribe_annotated(ctx.event_bus, each)
        subscribe_annotated(ctx.event_bus, WrongWriter(is_first=ctx.dist_context.is_main_process))

    @subscribe(EVENT_TRAIN_FINISHED)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        self.rank_zero.print("the end")
        self.all_ranks.meet()
