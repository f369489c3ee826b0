"""A library: it configures no loop, so what it only defines may be registered by others."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class RightForOthers:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


@subscribe(EVENT_TRAIN_STEP_POST)
def right_for_others(ctx: EventStepContext) -> None: ...


class RightAttachedByOthers:
    def attach(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class RightInner(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class RightOuter(TrainTask):
    def __init__(self) -> None:
        self._inner = RightInner()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self._inner)


class WrongCreatedHere:
    # E[d9d-unregistered]: Nothing registers the handler "stop" of EVENT_TRAIN_STEP_POST ("train.step.post"), so it is
    #   never called: pass an object of "WrongCreatedHere" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class Owner(TrainTask):
    def __init__(self) -> None:
        self._meter = WrongCreatedHere()


class WrongCallable:
    """A provider of data: a loop calls it, and does not register it."""

    def __call__(self, ctx: object) -> list[int]:
        return []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    # E[d9d-unregistered]: Nothing registers the handler "stop" of EVENT_TRAIN_STEP_POST ("train.step.post"), so it is
    #   never called: pass an object of "WrongCallable" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...
