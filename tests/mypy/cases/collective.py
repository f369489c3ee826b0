"""Handlers that call collectives of torch.distributed, on all ranks or on some."""

# ruff: noqa: PLW0108 - wrong on purpose, or right in many shapes
import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from collective_base import Saver, wait_for_all
from lab.events.trial import EVENT_TRIAL_READY, EVENT_TRIAL_ROUND_POST, EventRoundContext, EventTrialReadyContext
from torch.distributed import ProcessGroup, all_reduce
from torch.distributed import barrier as wait
from torch.distributed import checkpoint as dcp

from d9d.loop.event import EventBus, subscribe
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventConfigurationStartedContext,
    EventStepContext,
    EventTrainReadyContext,
)

logger = logging.getLogger(__name__)


# docs: d9d-collective
class WrongMeanLoss:
    total: torch.Tensor

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def report(self, ctx: EventRoundContext) -> None:
        loss = ctx.losses.mean()
        if dist.get_rank() == 0:
            # E[d9d-collective]: Handler "report" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "all_reduce" on
            #   some ranks only, because "dist.get_rank() == 0" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.all_reduce(loss)
            self.total = loss


class RightMeanLoss:
    total: torch.Tensor

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def report(self, ctx: EventRoundContext) -> None:
        loss = ctx.losses.mean()
        dist.all_reduce(loss)
        if dist.get_rank() == 0:
            self.total = loss


# docs: end


class Wrong:
    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._is_first = dist.get_rank() == 0

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def wrong_in_d9d(self, ctx: EventConfigurationStartedContext) -> None:
        if ctx.dist_context.is_main_process:
            # E[d9d-collective]: Handler "wrong_in_d9d" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start")
            #   calls "barrier" on some ranks only, because "ctx.dist_context.is_main_process" differs between ranks:
            #   these ranks wait forever for the others. Call it on every rank, and keep under the condition only what
            #   one rank does alone, such as printing or writing
            dist.barrier()
        if ctx.dist_context.rank > 0:
            # E[d9d-collective]: Handler "wrong_in_d9d" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start")
            #   calls "new_group" on some ranks only, because "ctx.dist_context.rank > 0" differs between ranks: these
            #   ranks wait forever for the others. Call it on every rank, and keep under the condition only what one
            #   rank does alone, such as printing or writing
            dist.new_group([0, 1])

    # One report, although it handles two events.
    @subscribe(EVENT_TRIAL_READY)
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong_after_an_early_return(self, ctx: EventRoundContext | EventTrialReadyContext) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        if rank != 0:
            return
        logger.info("saving")
        with torch.no_grad():
            # E[d9d-collective]: Handler "wrong_after_an_early_return" of EVENT_TRIAL_READY ("trial.ready") and
            #   EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "save" on some ranks only, because "rank != 0" depends
            #   on "get_rank", which differs between ranks: these ranks wait forever for the others. Call it on every
            #   rank, and keep under the condition only what one rank does alone, such as printing or writing
            dcp.save({}, checkpoint_id="last")

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong_in_many_places(self, ctx: EventRoundContext) -> None:
        is_main = self._rank == 0
        losses: list[Any] = []
        _ = is_main and all_reduce(ctx.losses)
        _ = dist.broadcast(ctx.losses, 0) if is_main else None
        if self._is_first:
            # E[d9d-collective]: Handler "wrong_in_many_places" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
            #   "barrier" on some ranks only, because "self._is_first" depends on "get_rank", which differs between
            #   ranks: these ranks wait forever for the others. Call it on every rank, and keep under the condition only
            #   what one rank does alone, such as printing or writing
            wait()
        # E[d9d-collective]: Handler "wrong_in_many_places" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
        #   "reduce" on some ranks only, because "dist.get_rank()" differs between ranks: these ranks wait forever for
        #   the others. Call it on every rank, and keep under the condition only what one rank does alone, such as
        #   printing or writing
        losses += [dist.reduce(ctx.losses) for _ in range(3) if dist.get_rank() == 0]
        match dist.get_rank():
            case 0:
                # E[d9d-collective]: Handler "wrong_in_many_places" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
                #   "all_gather_object" on some ranks only, because "dist.get_rank()" differs between ranks: these ranks
                #   wait forever for the others. Call it on every rank, and keep under the condition only what one rank
                #   does alone, such as printing or writing
                dist.all_gather_object(losses, None)
            case _:
                logger.info("nothing to gather")
        for _ in range(3):
            if not is_main:
                continue
            dist.broadcast_object_list(losses, src=0)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def wrong_on_the_other_side(self, ctx: EventStepContext) -> None:
        if int(os.environ["LOCAL_RANK"]) == 0:
            logger.info("step %d", ctx.stepper.current_step)
        else:
            # E[d9d-collective]: Handler "wrong_on_the_other_side" of EVENT_TRAIN_STEP_POST ("train.step.post") calls
            #   "barrier" on some ranks only, because "int(os.environ['LOCAL_RANK']) == 0" differs between ranks: these
            #   ranks wait forever for the others. Call it on every rank, and keep under the condition only what one
            #   rank does alone, such as printing or writing
            dist.barrier(group=None)

    def register(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_READY, self.wrong_subscribed)
        # E[d9d-collective]: Handler "<lambda>" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "barrier" on some
        #   ranks only, because "dist.get_rank()" differs between ranks: these ranks wait forever for the others. Call
        #   it on every rank, and keep under the condition only what one rank does alone, such as printing or writing
        bus.subscribe(EVENT_TRIAL_ROUND_POST, lambda ctx: dist.barrier() if dist.get_rank() == 0 else None)

    def wrong_subscribed(self, ctx: EventTrainReadyContext) -> None:
        if not dist.get_rank():
            # E[d9d-collective]: Handler "wrong_subscribed" of EVENT_TRAIN_READY ("train.ready") calls "barrier" on some
            #   ranks only, because "not dist.get_rank()" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            dist.barrier()


@subscribe(EVENT_TRIAL_ROUND_POST)
def wrong_function(ctx: EventRoundContext) -> None:
    rank = dist.get_rank()
    while rank == 0:
        # E[d9d-collective]: Handler "wrong_function" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "barrier" on
        #   some ranks only, because "get_rank" differs between ranks: these ranks wait forever for the others. Call it
        #   on every rank, and keep under the condition only what one rank does alone, such as printing or writing
        dist.barrier()


class ReachedByAll:
    def __init__(self, rank: int, group: ProcessGroup, lora_rank: int, saver: Saver) -> None:
        self._rank = rank
        self._group = group
        self._saver = saver
        self.rank = lora_rank
        self._lora_rank = rank

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_on_both_sides(self, ctx: EventRoundContext) -> None:
        objects: list[Any] = [None]
        if self._rank == 0:
            objects = [ctx.index]
            # E[d9d-host-sync]: Handler "reached_on_both_sides" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
            #   "broadcast_object_list" in every step, so each step waits for the device: do it only every N steps, as
            #   under "if ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
            dist.broadcast_object_list(objects)
        else:
            # E[d9d-host-sync]: Handler "reached_on_both_sides" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
            #   "broadcast_object_list" in every step, so each step waits for the device: do it only every N steps, as
            #   under "if ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
            dist.broadcast_object_list(objects)
        if dist.get_rank() != 0:
            dist.barrier()
        logger.info("the main process comes first")
        if dist.get_rank() == 0:
            dist.barrier()

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_with_an_early_return(self, ctx: EventRoundContext) -> None:
        if self._rank != 0:
            # E[d9d-host-sync]: Handler "reached_with_an_early_return" of EVENT_TRIAL_ROUND_POST ("trial.round.post")
            #   calls "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
            dist.barrier()
            return
        logger.info("saving")
        # E[d9d-host-sync]: Handler "reached_with_an_early_return" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
        #   "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
        dist.barrier()

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_through_functions(self, ctx: EventRoundContext) -> None:
        if self._rank == 0:
            # E[d9d-host-sync]: Handler "reached_through_functions" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
            #   "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
            dist.barrier()
        else:
            self._wait()
        if self._rank == 0:
            dist.all_reduce(ctx.losses)
        else:
            wait_for_all()
        if self._rank == 0:
            dist.broadcast(ctx.losses)
        else:
            self._saver.receive()

    def _wait(self) -> None:
        logger.info("waiting")
        self._wait_quietly()

    def _wait_quietly(self) -> None:
        # E[d9d-host-sync]: Handler "reached_through_functions" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
        #   "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
        wait()

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_in_a_group(self, ctx: EventRoundContext) -> None:
        if dist.get_rank() < 4:
            dist.all_reduce(ctx.losses, group=self._group)
        if dist.get_rank(self._group) == 0:
            dist.barrier(self._group)
        if self._group is not None:
            dist.barrier()
        if self._rank == 0:
            self._group = dist.new_group([0], use_local_synchronization=True)
            # E[d9d-host-sync]: Handler "reached_in_a_group" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "save"
            #   of torch.distributed.checkpoint in every step, so each step waits for the device: do it only every N
            #   steps, as under "if ctx.stepper.is_due(N):"
            dcp.save({}, no_dist=True)

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_from_one_to_another(self, ctx: EventRoundContext) -> None:
        if dist.get_rank() == 0:
            dist.send(ctx.losses, 1)
        elif dist.get_rank() == 1:
            dist.recv(ctx.losses, 0)

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_for_all_ranks(self, ctx: EventRoundContext) -> None:
        for rank in range(dist.get_world_size()):
            if rank == 0:
                dist.barrier()
            if rank == dist.get_rank():
                logger.info("my turn")
            # E[d9d-host-sync]: Handler "reached_for_all_ranks" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
            #   "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
            dist.barrier()
        if dist.get_world_size() > 1 and dist.is_initialized():
            # E[d9d-host-sync]: Handler "reached_for_all_ranks" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
            #   "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
            dist.barrier()
        if self.rank > 0:
            dist.all_reduce(ctx.losses)
        if self.rank == 8 or self._lora_rank == 0:
            dist.all_reduce(ctx.losses)
        if ctx.index % 10 != 0:
            return
        dist.barrier()
        if dist.get_rank() == 0 and ctx.index == 0:
            logger.info("first")
        if dist.get_rank() != 0:
            raise RuntimeError("this is for one process")
        dist.barrier()

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def reached_later(self, ctx: EventRoundContext) -> None:
        if dist.get_rank() == 0:
            self._saver.later(lambda: dist.barrier())

    def reached_since_nothing_subscribes_it(self) -> None:
        if dist.get_rank() == 0:
            dist.barrier()


@subscribe(EVENT_TRIAL_READY)
def reached_under_one_of_two_conditions(ctx: EventTrialReadyContext) -> None:
    if dist.get_rank() == 0 or ctx.title == "on all":
        dist.barrier()
