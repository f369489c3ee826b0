"""Subscriptions that come after the moment, or once more in every step."""

import contextlib

from d9d import Subscription, Trainer, TrainingConfigurator
from d9d.loop.control import ComputeLossContext, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import (
    EventConfigurationStartedContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_EPOCH_STARTED,
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventEpochContext,
    EventTrainReadyContext,
)


class OwnContext: ...


EVENT_OWN = Event[OwnContext](id="user.own")


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._bus = ctx.event_bus
        subscribe_annotated(ctx.event_bus, self)

    def note(self, ctx: object) -> None: ...


class WrongInEveryStep(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        self._attach()

    def _attach(self) -> None:
        # E[d9d-late]: "after" runs in every step and subscribes a handler each time, so the handler is called once more
        #   with every step: subscribe it once, in register_events
        self._bus.subscribe(EVENT_TRAIN_FINISHED, self.note)


class WrongInLoss(Registering):
    def compute_loss(self, ctx: ComputeLossContext) -> object:
        # E[d9d-late]: "compute_loss" runs in every step and subscribes a handler each time, so the handler is called
        #   once more with every step: subscribe it once, in register_events
        self._bus.subscribe(EVENT_TRAIN_STEP_POST, self.note)
        return ctx.outputs


class WrongMomentIsOver(Registering):
    @subscribe(EVENT_TRAIN_READY)
    def begin(self, ctx: EventTrainReadyContext) -> None:
        # E[d9d-late]: EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages") is over when handler "begin"
        #   of EVENT_TRAIN_READY ("train.ready") runs this, so the handler is never called: subscribe it in
        #   register_events
        self._bus.subscribe(EVENT_TRAIN_MODEL_STAGES_READY, self.note)


def wrong_after_configure(configurator: TrainingConfigurator) -> None:
    trainer = TrainingConfigurator(config=None, task=None).configure()
    # E[d9d-late]: EVENT_TRAIN_CONFIG_STARTED ("train.configuration.start") is over when configure() runs this, so the
    #   handler is never called: subscribe it in register_events
    trainer.event_bus.subscribe(EVENT_TRAIN_CONFIG_STARTED, print)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, print)


class RightOnce(Registering):
    is_attached = False

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        if not self.is_attached:
            self.is_attached = True
            self._bus.subscribe(EVENT_TRAIN_FINISHED, self.note)

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def model(self, ctx: EventModelStagesReadyContext) -> None:
        self._bus.subscribe(EVENT_TRAIN_READY, self.note)


def right_own_bus(ctx: EventConfigurationStartedContext) -> None:
    bus = EventBus()
    bus.subscribe(EVENT_TRAIN_CONFIG_STARTED, print)
    bus.trigger(EVENT_TRAIN_CONFIG_STARTED, ctx)


class WrongBlock(Registering):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-late]: This subscription ends with the "with" block, before the loop triggers an event, so the handler
        #   is never called: remove the "with"
        with ctx.event_bus.subscribe(EVENT_TRAIN_READY, print):
            super().register_events(ctx)


class RightBlock(Registering):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        with ctx.event_bus.subscribe(EVENT_OWN, print):
            ctx.event_bus.trigger(EVENT_OWN, OwnContext())


class RightEnded(Registering):
    subscription: Subscription | None = None

    @subscribe(EVENT_TRAIN_EPOCH_STARTED)
    def begin(self, ctx: EventEpochContext) -> None:
        self.end()
        self.subscription = self._bus.subscribe(EVENT_TRAIN_STEP_POST, self.note)

    def end(self) -> None:
        if self.subscription is not None:
            self.subscription.unsubscribe()


class RightForOneStep(Registering):
    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        self._stack.enter_context(self._bus.subscribe(EVENT_TRAIN_LOSS_READY, self.note))

    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        self._stack.close()


class RightForOneBlock(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        with self._bus.subscribe(EVENT_OWN, self.note):
            self._bus.trigger(EVENT_OWN, OwnContext())


class RightSubscribedForOneCall(Registering):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        self._bus.subscribe(EVENT_TRAIN_LOSS_READY, self.note, once=True)


class RightInFirstStep(Registering):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, self.begin, once=True)

    def begin(self, ctx: EventStepContext) -> None:
        self._bus.subscribe(EVENT_TRAIN_FINISHED, self.note)

    @subscribe(EVENT_TRAIN_STEP_POST, once=True)
    def after(self, ctx: EventStepContext) -> None:
        self._bus.subscribe(EVENT_TRAIN_LOSS_READY, self.note)


class WrongInFirstStep(Registering):
    @subscribe(EVENT_TRAIN_STEP_PRE, once=True)
    def begin(self, ctx: EventStepContext) -> None:
        # E[d9d-late]: EVENT_TRAIN_READY ("train.ready") is over when handler "begin" of EVENT_TRAIN_STEP_PRE
        #   ("train.step.pre") runs this, so the handler is never called: subscribe it in register_events
        self._bus.subscribe(EVENT_TRAIN_READY, self.note)


def wrong_in_loop(trainer: Trainer) -> None:
    for ctx in trainer.steps():
        # E[d9d-late]: This loop subscribes a handler in each step, so the handler is called once more with every step:
        #   subscribe it once, before the loop
        trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, print)
        print(ctx.stepper.current_step)


def wrong_through_helper(trainer: Trainer) -> None:
    for _ in trainer.steps():
        attach(trainer.event_bus)


def attach(bus: EventBus) -> None:
    # E[d9d-late]: This loop subscribes a handler in each step, so the handler is called once more with every step:
    #   subscribe it once, before the loop
    bus.subscribe(EVENT_TRAIN_STEP_POST, print)


def right_in_loop(trainer: Trainer) -> None:
    for ctx in trainer.steps():
        if ctx.stepper.current_step == 5:
            trainer.event_bus.subscribe(EVENT_TRAIN_FINISHED, print)
        trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, print, once=True)
    for _ in trainer.steps():
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, print)
        break


def right_for_each_step(trainer: Trainer) -> None:
    for _ in trainer.steps():
        with trainer.event_bus.subscribe(EVENT_TRAIN_EPOCH_STARTED, print):
            trainer.evaluate()
