"""Functions of the bus that are named, and not called."""

from d9d import Trainer, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE

EVENT_SAVED = Event[EventStepContext](id="user.saved")


def wrong_trigger(bus: EventBus, ctx: EventStepContext) -> None:
    # E[d9d-uncalled]: "bus.trigger" is named here, but not called: nothing happens. Call it
    bus.trigger
    bus.trigger(EVENT_SAVED, ctx)


class WrongTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-uncalled]: "subscribe_annotated" is named here, but not called: nothing happens. Call it
        subscribe_annotated
        subscribe = ctx.event_bus.subscribe
        # E[d9d-uncalled]: "bus.subscribe" is named here, but not called: nothing happens. Call it
        subscribe
        # E[d9d-uncalled]: This generator expression is never consumed, so nothing in it is called: write a for loop
        (subscribe(event, print) for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST))


class RightTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe = ctx.event_bus.subscribe
        subscribe(EVENT_TRAIN_STEP_POST, print)
        register = subscribe_annotated
        list(subscribe(event, self.on_step) for event in (EVENT_TRAIN_STEP_PRE,))
        (event for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST))
        print(register)

    def on_step(self, ctx: EventStepContext) -> None: ...


def wrong_runs(configurator: TrainingConfigurator, trainer: Trainer) -> None:
    # E[d9d-uncalled]: "configure" is named here, but not called: nothing happens. Call it
    configurator.configure
    # E[d9d-uncalled]: "train" is named here, but not called: nothing happens. Call it
    trainer.train
    # E[d9d-uncalled]: "steps" makes a generator, and no step runs until something iterates over it: write "for ctx in
    #   trainer.steps():", or call "train"
    trainer.steps()


def right_runs(trainer: Trainer) -> None:
    trainer.stepper
    steps = trainer.steps()
    next(steps)
    for ctx in steps:
        print(ctx.stepper.current_step)
