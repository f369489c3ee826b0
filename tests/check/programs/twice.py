"""One handler that is subscribed twice on one bus."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


class Parent(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.attach(ctx.event_bus)

    def attach(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)


class WrongSuperAndSelf(Parent):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        # E[d9d-twice]: Handler "count" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 14
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class WrongTagAndHand(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        # E[d9d-twice]: Handler "count" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 30
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.count)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


def handler(ctx: EventStepContext) -> None: ...


class WrongFunction(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._attach(ctx.event_bus)
        # E[d9d-twice]: Handler "handler" of EVENT_TRAIN_STEP_PRE ("train.step.pre") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 50
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, handler)

    def _attach(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_PRE, handler)


class RightAlternatives(TrainTask):
    verbose: bool = False

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if self.verbose:
            subscribe_annotated(ctx.event_bus, self)
        else:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.count)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class RightTwoEvents(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, self.count)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


def right_two_buses(one: EventBus, other: EventBus) -> None:
    one.subscribe(EVENT_TRAIN_STEP_PRE, handler)
    other.subscribe(EVENT_TRAIN_STEP_PRE, handler)


def right_two_handles(bus: EventBus) -> None:
    bus.subscribe(EVENT_TRAIN_STEP_PRE, handler)
    bus.subscribe(EVENT_TRAIN_STEP_PRE, handler)
