"""Private handlers: Python adds the name of the class to theirs, so that no subclass overrides them by accident."""

import private_names_base
from private_names_base import Timer

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventStepContext


class RightSameName(Timer):
    def __on_step(self, ctx: EventStepContext) -> None: ...


class RightBoth(Timer, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def __on_step(self, ctx: EventStepContext) -> None: ...


class RightByHand(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.__register(ctx.event_bus)

    def __register(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.__on_step)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def __on_step(self, ctx: EventStepContext) -> None: ...


class WrongForgotten(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.__register(ctx.event_bus)

    def __register(self, bus: EventBus) -> None: ...

    # E[d9d-unregistered]: "WrongForgotten" never registers its handler "__on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def __on_step(self, ctx: EventStepContext) -> None: ...


class WrongOther(RightByHand):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)

    # E[d9d-unregistered]: "WrongOther" never registers its handler "__on_step" of EVENT_TRAIN_STEP_PRE
    #   ("train.step.pre"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def __on_step(self, ctx: EventStepContext) -> None: ...


class OneName(private_names_base.OneName):
    # E[d9d-dropped]: "__on_step" overrides "OneName.__on_step", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"),
    #   without @subscribe, so it is never called: decorate the override with @subscribe(EVENT_TRAIN_STEP_POST) too, or
    #   give it another name
    def __on_step(self, ctx: EventStepContext) -> None: ...
