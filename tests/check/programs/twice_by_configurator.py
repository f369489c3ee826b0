"""Objects that a configurator is given, and that something else subscribes on the same bus."""

from d9d import Trainer, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Meter:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


class Holder(TrainTask):
    def __init__(self, meter: Meter, *, registers: bool = True) -> None:
        self.meter = meter
        self.registers = registers


class Registering(Holder):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self.meter)


class Perhaps(Holder):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if self.registers:
            subscribe_annotated(ctx.event_bus, self.meter)


class Own:
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None: ...


def wrong_in_task_and_list() -> None:
    meter = Meter()
    # E[d9d-twice]: The handlers of one object of "Meter" are subscribed here, and in line 23 as well, which is refused:
    #   remove one of the two
    TrainingConfigurator(config=None, task=Registering(meter), subscribers=[meter])


def wrong_in_list() -> None:
    meter, own = Meter(), Own()
    common: list[object] = [meter]
    # E[d9d-twice]: The handlers of one object of "Meter" are subscribed here, and in subscribers= as well, which is
    #   refused: remove one of the two
    TrainingConfigurator(config=None, task=None, subscribers=[*common, own, meter])
    # E[d9d-twice]: The handlers of one object of "Own" are subscribed here, and in subscribers= as well, which is
    #   refused: remove one of the two
    TrainingConfigurator(config=None, task=None, subscribers=[own, own])


def wrong_after_configure() -> None:
    meter = Meter()
    trainer: Trainer = TrainingConfigurator(config=None, task=None, subscribers=[meter]).configure()
    # E[d9d-twice]: The handlers of one object of "Meter" are subscribed here, and in line 60 as well, which is refused:
    #   remove one of the two
    subscribe_annotated(trainer.event_bus, meter)


def right_perhaps() -> None:
    meter = Meter()
    TrainingConfigurator(config=None, task=Perhaps(meter, registers=False), subscribers=[meter])


def right_in_two_runs() -> None:
    meter = Meter()
    TrainingConfigurator(config=None, task=None, subscribers=[meter]).configure().train()
    trainer = TrainingConfigurator(config=None, task=None).configure()
    subscribe_annotated(trainer.event_bus, meter)
    trainer.train()


def make() -> Meter:
    return Meter()


def right_of_one_place() -> None:
    TrainingConfigurator(config=None, task=Registering(make()), subscribers=[make(), make()])
    for number in range(2):
        meters = [Meter() for _ in range(number)]
        meter = Meter()
        TrainingConfigurator(config=None, task=Registering(meter), subscribers=[Own(), *meters])


def run(meter: Meter) -> None:
    TrainingConfigurator(config=None, task=Holder(meter), subscribers=[meter]).configure().train()


def right_in_helper() -> None:
    meter = Meter()
    run(meter)
    run(meter)


class WrongOwn(Own):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        # E[d9d-twice]: Handler "count" of EVENT_TRAIN_STEP_POST ("train.step.post") is subscribed twice on one bus,
        #   which is refused: remove this call or the one in line 34
        subscribe_annotated(ctx.event_bus, self)


def once_reported() -> None:
    TrainingConfigurator(config=None, task=None, subscribers=[WrongOwn()])
