"""What does not register a handler: the name of a class, a mention of `self`, a function that nothing calls."""

import logging
from collections.abc import Callable

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext

logger = logging.getLogger(__name__)


class OnStep:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


# E[d9d-unregistered]: "Baseline" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post"), so
#   nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class Baseline(OnStep, TrainTask): ...


# E[d9d-unregistered]: "AbstractiveSummary" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
#   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class AbstractiveSummary(OnStep, TrainTask): ...


# E[d9d-unregistered]: "_DataBase" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post"),
#   so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class _DataBase(OnStep, TrainTask): ...


# E[d9d-unregistered]: "WrongPrinted" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
#   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongPrinted(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        print(f"{self!r} is registered with {ctx}", self)  # noqa: T201


# E[d9d-unregistered]: "WrongLogged" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post"),
#   so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongLogged(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        logger.info("registering %s of %d", self, len([ctx]))


# E[d9d-unregistered]: "WrongCompared" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
#   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongCompared(OnStep, TrainTask):
    main: object = None

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if type(self).main is self or self != self.main:
            raise ValueError


# E[d9d-unregistered]: "WrongNested" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post"),
#   so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongNested(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        def register() -> None:
            subscribe_annotated(ctx.event_bus, self)


class RightNested(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        def register() -> None:
            subscribe_annotated(ctx.event_bus, self)

        actions: list[Callable[[], None]] = [register]
        for action in actions:
            action()


class RightPassed(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        logger.info("registering %s", self)
        for target in (self, None):
            if target is not None:
                subscribe_annotated(ctx.event_bus, target)
