"""Collectives that a rank skips, or calls alone, because it has caught an exception."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import third_party
import torch
import torch.distributed as dist

from d9d import Trainer
from d9d.core.dist_context import DistributedContext
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventTrainFinishedContext

try:
    import wandb
except ImportError:
    wandb = None

logger = logging.getLogger(__name__)


class Registering(TrainTask):
    dist_context: DistributedContext
    trainer: Trainer
    value: torch.Tensor
    groups: dict[str, Any]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongInExcept(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        try:
            self.text = Path("notes.txt").read_text(encoding="utf-8")
        except OSError:
            # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "export" on some
            #   ranks only, because whether OSError is raised differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            self.trainer.export(Path("out"))


class WrongReturns(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        try:
            with Path("results.json").open(encoding="utf-8") as file:
                self.results = json.load(file)
        except (OSError, ValueError):
            logger.warning("no results")
            return
        # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "all_reduce" on some
        #   ranks only, because whether OSError or ValueError is raised differs between ranks: these ranks wait forever
        #   for the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.all_reduce(self.value)


class WrongSkipped(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        try:
            third_party.upload("out")
            # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "barrier" on some
            #   ranks only, because whether Exception is raised differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.barrier()
        except Exception:
            logger.exception("the upload failed")


class WrongMemory(Registering):
    model: torch.nn.Module

    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        try:
            outputs = self.model(self.value)
        except torch.OutOfMemoryError:
            logger.warning("too large")
            return
        # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "all_reduce" on some
        #   ranks only, because whether OutOfMemoryError is raised differs between ranks: these ranks wait forever for
        #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        dist.all_reduce(outputs)


class WrongSuppressed(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        with contextlib.suppress(OSError):
            Path("notes.txt").unlink()
            # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "barrier" on some
            #   ranks only, because whether OSError is raised differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.barrier()


class WrongInLoop(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        for name in ["first.pt", "second.pt"]:
            try:
                tensor = torch.load(name)
            except FileNotFoundError:
                continue
            # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "all_reduce" on
            #   some ranks only, because whether FileNotFoundError is raised differs between ranks: these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            dist.all_reduce(tensor)


class WrongFlag(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def at_the_end(self, ctx: EventTrainFinishedContext) -> None:
        is_written = True
        try:
            Path("notes.txt").write_text("done", encoding="utf-8")
        except OSError:
            is_written = False
        if is_written:
            # E[d9d-collective]: Handler "at_the_end" of EVENT_TRAIN_FINISHED ("train.finished") calls "barrier" on some
            #   ranks only, because "is_written" depends on whether OSError is raised, which differs between ranks:
            #   these ranks wait forever for the others. Call it on every rank, and keep under the condition only what
            #   one rank does alone, such as printing or writing
            dist.barrier()


class Right(Registering):
    @subscribe(EVENT_TRAIN_FINISHED)
    def with_agreement(self, ctx: EventTrainFinishedContext) -> None:
        is_written = True
        try:
            Path("notes.txt").write_text("done", encoding="utf-8")
        except OSError:
            is_written = False
        everywhere = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, is_written)
        if not all(everywhere):
            return
        dist.barrier()

    @subscribe(EVENT_TRAIN_FINISHED)
    def with_raise(self, ctx: EventTrainFinishedContext) -> None:
        try:
            self.text = Path("notes.txt").read_text(encoding="utf-8")
        except OSError as error:
            raise RuntimeError("no notes") from error
        dist.barrier()

    @subscribe(EVENT_TRAIN_FINISHED)
    def of_all_alike(self, ctx: EventTrainFinishedContext) -> None:
        try:
            group = self.groups["hosts"]
        except KeyError:
            group = dist.new_group([0, 1])
        self.groups["hosts"] = group
        if wandb is not None:
            dist.all_reduce(self.value)

    @subscribe(EVENT_TRAIN_FINISHED)
    def of_the_collective(self, ctx: EventTrainFinishedContext) -> None:
        try:
            dist.monitored_barrier()
        except RuntimeError:
            logger.exception("a rank hangs")
            return
        dist.barrier()

    @subscribe(EVENT_TRAIN_FINISHED)
    def in_each_case(self, ctx: EventTrainFinishedContext) -> None:
        with contextlib.suppress(OSError):
            Path("notes.txt").unlink()
        try:
            Path("notes.txt").write_text("done", encoding="utf-8")
        except OSError:
            written = torch.zeros(1)
        else:
            written = torch.ones(1)
        dist.all_reduce(written)

    @subscribe(EVENT_TRAIN_FINISHED)
    def at_last(self, ctx: EventTrainFinishedContext) -> None:
        try:
            if self.dist_context.is_main_process:
                third_party.upload("out")
        except OSError:
            logger.warning("not uploaded")
        finally:
            dist.barrier()
