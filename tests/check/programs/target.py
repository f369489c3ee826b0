"""`subscribe_annotated` on what has no handlers."""

import math
import types

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Meter:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class Plain:
    def stop(self, ctx: EventStepContext) -> None: ...


def wrong_tuple(bus: EventBus) -> None:
    meters = (Meter(), Meter())
    # E[d9d-target]: subscribe_annotated is called with a tuple, which has no handlers, so nothing is subscribed: pass
    #   each object in it by itself, in a for loop or with a star
    subscribe_annotated(bus, meters)


def wrong_class(bus: EventBus) -> None:
    for kind in (Meter,):
        # E[d9d-target]: subscribe_annotated is called with the class Meter, which is refused: pass an object, such as
        #   Meter(...)
        subscribe_annotated(bus, kind)


class WrongTask(TrainTask):
    def __init__(self) -> None:
        self.by_name = {"meter": Meter()}
        self.plain = Plain()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-target]: subscribe_annotated is called with a dict, which has no handlers, so nothing is subscribed:
        #   pass each object in it by itself, in a for loop or with a star
        subscribe_annotated(ctx.event_bus, self.by_name)
        # E[d9d-target]: subscribe_annotated is called with an object of "Plain", which has no method with @subscribe,
        #   so nothing is subscribed: decorate its handlers, or subscribe them with bus.subscribe
        subscribe_annotated(ctx.event_bus, self.plain)


def wrong_method(bus: EventBus, meter: Meter) -> None:
    # E[d9d-target]: subscribe_annotated is called with the method "stop", so nothing is subscribed: pass its object, or
    #   use bus.subscribe
    subscribe_annotated(bus, meter.stop)


def right(bus: EventBus, target: object, module: types.ModuleType, meter: Meter | None) -> None:
    subscribe_annotated(bus, target)
    subscribe_annotated(bus, module)
    subscribe_annotated(bus, math)
    if meter is not None:
        subscribe_annotated(bus, meter)
    for each in [Meter(), Meter()]:
        subscribe_annotated(bus, each)


class WrongType(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-target]: subscribe_annotated is called with the class WrongType, which is refused: pass an object, such
        #   as WrongType(...)
        subscribe_annotated(ctx.event_bus, type(self))

    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


def right_type(bus: EventBus, meter: Meter) -> None:
    subscribe_annotated(bus, type(meter)())
