"""Registrations of what has no handlers, and of one object twice."""

import registered
from unregistered_base import Log, RegisteringTask, Registers, RegistersNothing

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe_annotated


class Parts:
    def __init__(self) -> None:
        self.parts = [Log(), Log()]
        self.named = {"log": Log()}


# docs: d9d-target
def wrong(bus: EventBus) -> None:
    # E[d9d-target]: subscribe_annotated is called with a list, which has no handlers, so nothing is subscribed: pass
    #   each object in it by itself, in a for loop or with a star
    subscribe_annotated(bus, Parts().parts)
    # E[d9d-target]: subscribe_annotated is called with the class Log, which is refused: pass an object, such as
    #   Log(...)
    subscribe_annotated(bus, Log)


def right(bus: EventBus) -> None:
    for part in Parts().parts:
        subscribe_annotated(bus, part)


# docs: end


class WrongTargets:
    def attach(self, bus: EventBus) -> None:
        # E[d9d-target]: subscribe_annotated is called with a dict, which has no handlers, so nothing is subscribed:
        #   pass each object in it by itself, in a for loop or with a star
        subscribe_annotated(target=Parts().named, bus=bus)
        # E[d9d-target]: subscribe_annotated is called with a tuple, which has no handlers, so nothing is subscribed:
        #   pass each object in it by itself, in a for loop or with a star
        subscribe_annotated(bus, (Log(), self))
        # E[d9d-target]: subscribe_annotated is called with the class WrongTargets, which is refused: pass an object,
        #   such as WrongTargets(...)
        subscribe_annotated(bus, type(self))


class MostlyRightTargets:
    def attach(self, bus: EventBus, other: object, log: Log | None) -> None:
        subscribe_annotated(bus, self)
        # E[d9d-target]: subscribe_annotated is called with the module registered, which defines no handler itself, so
        #   nothing is subscribed: pass the module that defines the handlers
        subscribe_annotated(bus, registered)
        subscribe_annotated(bus, other)
        subscribe_annotated(bus, log)


# docs: d9d-twice
class WrongTwice(Log, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        # E[d9d-twice]: Handler "log_step" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 19 of unregistered_base
        subscribe_annotated(ctx.event_bus, self)


class RightOnce(Log, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)


# docs: end


class WrongSuperLast(Log, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-twice]: Handler "log_step" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 19 of unregistered_base
        subscribe_annotated(ctx.event_bus, self)
        super().register_events(ctx)


class WrongInOne(Log, TrainTask):
    def register_events(self, context: RegisterTaskEventsContext) -> None:
        subscribe_annotated(context.event_bus, self)
        # E[d9d-twice]: Handler "log_step" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 84
        subscribe_annotated(target=self, bus=context.event_bus)


class Between(RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)


class WrongFurtherUp(Log, Between):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        name = type(self).__name__
        super().register_events(ctx)
        # E[d9d-twice]: Handler "log_step" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 19 of unregistered_base
        subscribe_annotated(ctx.event_bus, self)
        assert name


class RightOther(Log, RegistersNothing):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        subscribe_annotated(ctx.event_bus, self)


class RightEither(Log, RegisteringTask):
    is_first = True

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if self.is_first:
            super().register_events(ctx)
            return
        subscribe_annotated(ctx.event_bus, self)


class RightTwoBuses(Log, Registers, TrainTask):
    def __init__(self) -> None:
        self._other = EventBus()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        subscribe_annotated(self._other, self)
