"""Collectives that only some ranks reach, and those that all do."""

import os
import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from d9d import Trainer
from d9d.core.dist_context import DistributedContext
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EVENT_TRAIN_STEP_POST, EventTrainFinishedContext


class Registering(TrainTask):
    dist_context: DistributedContext
    loss: torch.Tensor
    trainer: Trainer
    group: dist.ProcessGroup

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongBehindProperty(Registering):
    @property
    def is_first(self) -> bool:
        return int(os.environ["RANK"]) == 0

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.is_first:
            self._mean()

    def _mean(self) -> torch.Tensor:
        total = self.loss.clone()
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on some
        #   ranks only, because "self.is_first" depends on the variable "RANK", which differs between ranks: these ranks
        #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank does
        #   alone, such as printing or writing
        dist.all_reduce(total)
        return total


class WrongEarlyReturn(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        rank = dist.get_rank()
        if rank != 0:
            return
        print("exporting")
        # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "export" on some
        #   ranks only, because "rank != 0" depends on "get_rank", which differs between ranks: these ranks wait forever
        #   for the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        self.trainer.export(Path("out"))


class WrongRandom(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if random.random() < 0.1:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "broadcast" on
            #   some ranks only, because "random.random() < 0.1" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.broadcast(self.loss, src=0)


class WrongOrder(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.dist_context.is_main_process:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "broadcast" on
            #   some ranks only, because "self.dist_context.is_main_process" differs between ranks: these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.broadcast(self.loss, src=0)
            dist.all_reduce(self.loss)
        else:
            dist.all_reduce(self.loss)
            dist.broadcast(self.loss, src=0)


class WrongFilter(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, main_process_only=True)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "barrier" on some
        #   ranks only, because only the main process calls this handler (main_process_only=True): these ranks wait
        #   forever for the others. Call it on every rank, and keep under the condition only what one rank does alone,
        #   such as printing or writing
        dist.barrier()


class WrongState(Registering):
    def state_dict(self) -> dict[str, Any]:
        names = {"loss", "weight"}
        for name in names:
            # E[d9d-collective]: "state_dict" calls "all_reduce" on some ranks only, because the order of a set of
            #   strings differs between ranks: these ranks wait forever for the others. Call it on every rank, and keep
            #   under the condition only what one rank does alone, such as printing or writing
            dist.all_reduce(getattr(self, name))
        return {}


class WrongInExpressions(Registering):
    modules: list[torch.nn.Module]

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        for module in self.modules:
            if dist.get_rank() != 0:
                continue
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "barrier" on some
            #   ranks only, because "dist.get_rank() != 0" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.barrier()
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on some
        #   ranks only, because "self.dist_context.is_main_process" differs between ranks: these ranks wait forever for
        #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        self.sums = [dist.all_reduce(module.bias) for module in self.modules if self.dist_context.is_main_process]
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "wait_world" on some
        #   ranks only, because "dist.get_rank()" differs between ranks: these ranks wait forever for the others. Call
        #   it on every rank, and keep under the condition only what one rank does alone, such as printing or writing
        dist.get_rank() == 0 and self.dist_context.wait_world()
        match dist.get_rank():
            case 0:
                # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls
                #   "monitored_barrier" on some ranks only, because "dist.get_rank()" differs between ranks: these ranks
                #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank
                #   does alone, such as printing or writing
                dist.monitored_barrier()
            case _:
                print("the others")


class WrongLongCondition(Registering):
    """A condition that is long, or of several lines, is not repeated in the message."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0 and ctx.stepper.current_step % 1000 == 0 and ctx.stepper.total_steps > 1:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "new_group" on
            #   some ranks only, because "get_rank" differs between ranks: these ranks wait forever for the others. Call
            #   it on every rank, and keep under the condition only what one rank does alone, such as printing or
            #   writing
            dist.new_group([0, 1])
        if (
            dist.get_rank() == 0
            and ctx.stepper.is_due(10)
        ):  # fmt: skip
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "barrier" on some
            #   ranks only, because "get_rank" differs between ranks: these ranks wait forever for the others. Call it
            #   on every rank, and keep under the condition only what one rank does alone, such as printing or writing
            dist.barrier()


class Right(Registering):
    def __init__(self, rank: int = 8) -> None:
        self.rank = rank

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_all(self, ctx: EventStepContext) -> None:
        if self.rank > 4 and dist.get_world_size() > 1:
            dist.all_reduce(self.loss)
        if ctx.stepper.is_due(10):
            dist.all_reduce(self.loss)
        for name in sorted({"loss", "weight"}):
            dist.all_reduce(getattr(self, name))

    @subscribe(EVENT_TRAIN_STEP_POST)
    def in_turn(self, ctx: EventStepContext) -> None:
        if not self.dist_context.is_main_process:
            dist.barrier()
        print("download")
        if self.dist_context.is_main_process:
            dist.barrier()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_both_sides(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            print("first")
            dist.barrier()
            return
        dist.barrier()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def in_group(self, ctx: EventStepContext) -> None:
        if dist.get_rank() < 2:
            dist.all_reduce(self.loss, group=self.group)
        if dist.get_rank() == 0:
            dist.send(self.loss, dst=1)
        elif dist.get_rank() == 1:
            dist.recv(self.loss, src=0)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def alone(self, ctx: EventStepContext) -> None:
        dist.all_reduce(self.loss)
        if dist.get_rank() == 0:
            print("written")
