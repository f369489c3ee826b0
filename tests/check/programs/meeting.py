"""Handlers of every step in which the host waits for other ranks."""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from d9d.core.dist_context import DistributedContext
from d9d.loop.control import InferenceTask, ProcessOutputsContext, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventCheckpointContext, EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_STEP_POST,
)


class Registering(TrainTask):
    dist_context: DistributedContext
    value: torch.Tensor
    model: torch.nn.Module

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongBarrier(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, every=1)
    def on_step(self, ctx: EventStepContext) -> None:
        self._meet()

    def _meet(self) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "barrier" in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   leave it out: collectives on tensors need no waiting of the host
        dist.barrier()


class WrongWorld(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.dist_context.world_size > 1:
            # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "wait_world" in
            #   every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):"
            self.dist_context.wait_world()


class WrongObjects(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        names: list[Any] = [None] * dist.get_world_size()
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "all_gather_object" in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
        dist.all_gather_object(names, "name")
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "broadcast_object_list"
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
        dist.broadcast_object_list(names, src=0)


class WrongWork(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        work = dist.all_reduce(self.value, async_op=True)
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".wait()" right after
        #   it has started a collective in every step, so each step waits for the device: do it only every N steps, as
        #   under "if ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
        work.wait()
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".wait()" right after
        #   it has started a collective in every step, so each step waits for the device: do it only every N steps, as
        #   under "if ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
        dist.broadcast(self.value, src=0, async_op=True).wait()


class WrongCheckpoint(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "save" of
        #   torch.distributed.checkpoint in every step, so each step waits for the device: do it only every N steps, as
        #   under "if ctx.stepper.is_due(N):"
        dcp.save({"model": self.model.state_dict()}, checkpoint_id="latest")


class WrongOutputs(InferenceTask):
    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        # E[d9d-host-sync]: "process_outputs" calls "barrier" in every step, so each step waits for the device: do it
        #   only every N steps, as under "if ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no
        #   waiting of the host
        dist.barrier()
        print(ctx.outputs.cpu())


class Right(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def when_due(self, ctx: EventStepContext) -> None:
        dist.all_reduce(self.value)
        if ctx.stepper.is_due(100):
            dist.monitored_barrier()
            self.dist_context.wait_world()

    @subscribe(EVENT_TRAIN_CHECKPOINT_SAVED)
    def when_saved(self, ctx: EventCheckpointContext) -> None:
        dist.barrier()

    @subscribe(EVENT_TRAIN_FORWARD_BACKWARD_PRE)
    def start(self, ctx: EventStepContext) -> None:
        self.work = dist.all_reduce(self.value, async_op=True)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def end(self, ctx: EventStepContext) -> None:
        self.work.wait()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def meanwhile(self, ctx: EventStepContext) -> None:
        work = dist.all_reduce(self.value, async_op=True)
        self.weights = torch.stack([parameter.detach() for parameter in self.model.parameters()])
        work.wait()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def in_turn(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            print("first")
            dist.barrier()
        else:
            dist.barrier()
