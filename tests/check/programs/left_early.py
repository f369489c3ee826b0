"""Collectives in what ends a block however it is left: `finally`, and the end of a `with` statement."""

from pathlib import Path

import torch
import torch.distributed as dist

from d9d.core.dist_context import DistributedContext
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventTrainFinishedContext


class Registering(TrainTask):
    dist_context: DistributedContext
    total: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class Together:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        dist.barrier()


class RightFinally(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def write(self, ctx: EventTrainFinishedContext) -> None:
        try:
            if not self.dist_context.is_main_process:
                return
            Path("done").touch()
        finally:
            dist.barrier()


class RightTurns(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def write(self, ctx: EventTrainFinishedContext) -> None:
        for rank in range(self.dist_context.world_size):
            try:
                if rank != dist.get_rank():
                    continue
                Path(f"done-{rank}").touch()
            finally:
                dist.barrier()


class RightBlock(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def write(self, ctx: EventTrainFinishedContext) -> None:
        with Together():
            if not self.dist_context.is_main_process:
                return
            Path("done").touch()


class WrongAfterFinally(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def write(self, ctx: EventTrainFinishedContext) -> None:
        try:
            if not self.dist_context.is_main_process:
                return
            Path("done").touch()
        finally:
            dist.barrier()
        # E[d9d-collective]: Handler "write" of EVENT_TRAIN_FINISHED ("train.finished") calls "all_reduce" on some ranks
        #   only, because "not self.dist_context.is_main_process" differs between ranks: these ranks wait forever for
        #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.all_reduce(self.total)


class WrongInBlock(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def write(self, ctx: EventTrainFinishedContext) -> None:
        with Together():
            if not self.dist_context.is_main_process:
                return
            # E[d9d-collective]: Handler "write" of EVENT_TRAIN_FINISHED ("train.finished") calls "all_reduce" on some
            #   ranks only, because "not self.dist_context.is_main_process" differs between ranks: these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.all_reduce(self.total)
