"""What a rank chooses early, and what decides about a collective later."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from d9d import Trainer
from d9d.core.dist_context import DistributedContext
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventTrainReadyContext

P = ParamSpec("P")
R = TypeVar("R")


class Registering(TrainTask):
    dist_context: DistributedContext
    value: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongFlag(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        is_writer = False
        if self.dist_context.is_main_process:
            is_writer = True
        if is_writer:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "is_writer" depends on "is_main_process", which differs between ranks: these
            #   ranks wait forever for the others. Call it on every rank, and keep under the condition only what one
            #   rank does alone, such as printing or writing
            dist.all_reduce(self.value)


class WrongAnswer(Registering):
    def _is_writer(self) -> bool:
        if dist.get_rank() != 0:
            print("reads")
            return False
        return True

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self._is_writer():
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "self._is_writer()" depends on "get_rank", which differs between ranks: these
            #   ranks wait forever for the others. Call it on every rank, and keep under the condition only what one
            #   rank does alone, such as printing or writing
            dist.all_reduce(self.value)


class WrongMatch(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        role = "writer" if dist.get_rank() == 0 else "reader"
        match role:
            case "writer":
                # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce"
                #   on some ranks only, because "role" depends on "get_rank", which differs between ranks: these ranks
                #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank
                #   does alone, such as printing or writing
                dist.all_reduce(self.value)
            case "reader":
                print("reads")


def on_the_first(function: Callable[P, R]) -> Callable[P, R | None]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R | None:
        if int(os.environ.get("RANK", "0")) != 0:
            return None
        return function(*args, **kwargs)

    return inner


class WrongAttribute(Registering):
    is_writer = False

    @subscribe(EVENT_TRAIN_READY)
    def begin(self, ctx: EventTrainReadyContext) -> None:
        if self.dist_context.is_main_process:
            self.is_writer = True

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.is_writer:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on
            #   some ranks only, because "self.is_writer" depends on "is_main_process", which differs between ranks:
            #   these ranks wait forever for the others. Call it on every rank, and keep under the condition only what
            #   one rank does alone, such as printing or writing
            dist.all_reduce(self.value)


class WrongDecoratedOutside(Registering):
    @rank_zero_only
    def _write(self) -> None:
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on some
        #   ranks only, because the rank on which its decorator calls it differs between ranks: these ranks wait forever
        #   for the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self._write()


class WrongDecorated(Registering):
    @on_the_first
    def _write(self) -> None:
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on some
        #   ranks only, because "int(os.environ.get('RANK', '0')) != 0" differs between ranks: these ranks wait forever
        #   for the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self._write()


def export(trainer: Trainer, folder: Path) -> None:
    # E[d9d-collective]: "wrong_main" calls "export" on some ranks only, because "os.environ.get('RANK', '0') == '0'"
    #   differs between ranks: these ranks wait forever for the others. Call it on every rank, and keep under the
    #   condition only what one rank does alone, such as printing or writing
    trainer.export(folder)


def wrong_main(trainer: Trainer) -> None:
    trainer.train()
    if os.environ.get("RANK", "0") == "0":
        export(trainer, Path("out"))


class WrongSubscription(TrainTask):
    value: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if ctx.dist_context.is_main_process:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)

    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on some
        #   ranks only, because "ctx.dist_context.is_main_process" differs between ranks: these ranks wait forever for
        #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.all_reduce(self.value)


class WrongRegistration(TrainTask):
    value: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if ctx.dist_context.rank == 0:
            subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_reduce" on some
        #   ranks only, because "ctx.dist_context.rank == 0" differs between ranks: these ranks wait forever for the
        #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as printing
        #   or writing
        dist.all_reduce(self.value)


class Right(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        path = None
        if self.dist_context.is_main_process:
            path = Path("notes.txt")
        dist.all_reduce(self.value)
        if path is not None:
            path.write_text("done", encoding="utf-8")
        value = torch.zeros(1, device=self.dist_context.device)
        if dist.get_rank() == 0:
            value = torch.ones(1, device=self.dist_context.device)
        dist.broadcast(value, src=0)
        if ctx.stepper.is_due(10) and value.item() > 0:
            dist.barrier()

    @subscribe(EVENT_TRAIN_READY)
    def begin(self, ctx: EventTrainReadyContext) -> None:
        self.number = None
        if self.dist_context.is_main_process:
            self.number = 3
        self.number = self._from_the_first(self.number)
        if self.number is not None:
            dist.all_reduce(self.value)
        self._log("ready")

    @rank_zero_only
    def _log(self, text: str) -> None:
        print(text)

    def _from_the_first(self, value: Any) -> Any:
        box = [value] if dist.get_rank() == 0 else [None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def with_answer(self, ctx: EventStepContext) -> None:
        if self._from_the_first(Path("stop").exists()):
            dist.barrier()


class RightRegistration(TrainTask):
    value: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)
        if ctx.dist_context.is_main_process:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.log_step)

    def on_step(self, ctx: EventStepContext) -> None:
        dist.all_reduce(self.value)

    def log_step(self, ctx: EventStepContext) -> None:
        print(ctx.stepper.current_step)
