"""Functions that `d9d.collective` and `d9d.waits_for_device` mark: their calls are what the marks say."""

import abc
import functools
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import third_party
import torch
import torch.distributed as dist

import d9d
from d9d import TrainingConfigurator, collective, waits_for_device
from d9d.core.dist_context import DistributedContext
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventConfigurationStartedContext, EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_CONFIG_STARTED, EVENT_TRAIN_STEP_POST

P = ParamSpec("P")
R = TypeVar("R")


class Registering(TrainTask):
    dist_context: DistributedContext
    value: torch.Tensor

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


@collective
def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    return third_party.mean(value)


class WrongFunction(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.dist_context.is_main_process:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "mean_over_ranks"
            #   on some ranks only, because "self.dist_context.is_main_process" differs between ranks: these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            self.mean = mean_over_ranks(self.value)


class Store(abc.ABC):
    @abc.abstractmethod
    @collective
    def synchronize(self) -> None: ...


class Disk(Store):
    def synchronize(self) -> None:
        third_party.flush()


class WrongOverride(Registering):
    def __init__(self) -> None:
        self.store = Disk()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "synchronize" on
            #   some ranks only, because "dist.get_rank() == 0" differs between ranks: these ranks wait forever for the
            #   others. Call it on every rank, and keep under the condition only what one rank does alone, such as
            #   printing or writing
            self.store.synchronize()


class Counter(Protocol):
    @property
    @d9d.core.marks.collective
    def total(self) -> int: ...


class WrongProperty(Registering):
    counter: Counter

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.dist_context.pipeline_rank == 1:
            # E[d9d-collective]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "total" on some
            #   ranks only, because "self.dist_context.pipeline_rank == 1" differs between ranks: these ranks wait
            #   forever for the others. Call it on every rank, and keep under the condition only what one rank does
            #   alone, such as printing or writing
            print(self.counter.total)


class WrongOwn(Registering):
    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def on_start(self, ctx: EventConfigurationStartedContext) -> None:
        if ctx.dist_context.rank > 0:
            # E[d9d-collective]: Handler "on_start" of EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") calls
            #   "new_host_group" on some ranks only, because "ctx.dist_context.rank > 0" differs between ranks: these
            #   ranks wait forever for the others. Call it on every rank, and keep under the condition only what one
            #   rank does alone, such as printing or writing
            self.group = ctx.dist_context.new_host_group()


def wrong_main(configurator: TrainingConfigurator) -> None:
    trainer = configurator.configure()
    if dist.get_rank() == 0:
        # E[d9d-collective]: "wrong_main" calls "train" on some ranks only, because "dist.get_rank() == 0" differs
        #   between ranks: these ranks wait forever for the others. Call it on every rank, and keep under the condition
        #   only what one rank does alone, such as printing or writing
        trainer.train()


def logged(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "read" in every step,
        #   so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):"
        return function(*args, **kwargs)

    return inner


@logged
@waits_for_device
def read(value: torch.Tensor) -> float:
    return value.item()


class WrongRead(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self.latest = self._read()

    def _read(self) -> float:
        return read(self.value)


class Probe:
    @property
    @waits_for_device
    def used_bytes(self) -> int:
        return third_party.used_bytes()

    @classmethod
    @waits_for_device
    def settle(cls) -> None: ...


class WrongProbes(Registering):
    def __init__(self) -> None:
        self.probe = Probe()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "used_bytes" in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):"
        self.bytes = self.probe.used_bytes
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "settle" in every step,
        #   so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):"
        Probe.settle()


class Right(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        mean = mean_over_ranks(self.value)
        if ctx.stepper.is_due(10):
            print(read(mean))
        if read.__name__ == "read" and ctx.stepper.is_due(20) and read(mean) > 3:
            mean_over_ranks(self.value)
