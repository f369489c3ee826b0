"""Slices of lists: lists themselves, as long on each rank as their bounds say."""

from pathlib import Path

from torch import distributed

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST

NAMES = ("FIRST", "SECOND", "THIRD")


class Meter:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


class Clock:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class WrongTask(TrainTask):
    def __init__(self) -> None:
        self._parts = [Meter(), Clock()]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-target]: subscribe_annotated is called with a list, which has no handlers, so nothing is subscribed:
        #   pass each object in it by itself, in a for loop or with a star
        subscribe_annotated(ctx.event_bus, self._parts[1:])


class RightTask(TrainTask):
    def __init__(self) -> None:
        self._parts = [Meter(), Clock()]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        first, *_ = self._parts
        subscribe_annotated(ctx.event_bus, first)
        for each in self._parts[1:]:
            subscribe_annotated(ctx.event_bus, each)


class Rounds(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def right(self, ctx: EventStepContext) -> None:
        present = [Path(name).is_file() for name in NAMES]
        for _ in present[1:]:
            distributed.barrier()

    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def wrong(self, ctx: EventStepContext) -> None:
        for _ in NAMES[: len(list(Path("shards").iterdir()))]:
            # E[d9d-collective]: Handler "wrong" of EVENT_TRAIN_STEP_POST ("train.step.post") calls "barrier" on some
            #   ranks only, because "Path.iterdir" differs between ranks: these ranks wait forever for the others. Call
            #   it on every rank, and keep under the condition only what one rank does alone, such as printing or
            #   writing
            distributed.barrier()
