"""Tasks, mixins and helpers of another module, for the cases of `d9d-unregistered`."""

import abc

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventStepContext


class Log:
    """Is no task: classes that inherit from it register it."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def log_step(self, ctx: EventStepContext) -> None: ...


class RegisteringTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class RegistersNothing(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, print)


class RegistersOneByOne(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.log_step)

    def log_step(self, ctx: EventStepContext) -> None: ...


class RegistersByTemplate(TrainTask):
    """Registers what its subclasses say."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.register_on(ctx.event_bus)

    def register_on(self, bus: EventBus) -> None: ...


class RegistersSubclasses:
    def __init_subclass__(cls) -> None:
        def register_events(self: object, ctx: RegisterTaskEventsContext) -> None:
            subscribe_annotated(ctx.event_bus, self)

        setattr(cls, "register_events", register_events)  # noqa: B010 - mypy knows no such attribute


class Registers:
    """Is no task, and cooperates with one."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class Attaches:
    def attach(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)


class BaseOfTasks(TrainTask, abc.ABC):
    """Leaves it to its subclasses to register what it declares."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def log_step(self, ctx: EventStepContext) -> None: ...


def register(bus: EventBus, *targets: object) -> None:
    for target in targets:
        subscribe_annotated(bus, target)


class Registrar:
    def __init__(self, target: object) -> None:
        self._target = target

    def register(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self._target)
