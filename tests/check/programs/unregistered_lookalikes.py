"""Methods that look as if something called them, and registrations that do not happen."""

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Any

from d9d import TrainingConfig, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventOptimizerReadyContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongNotDecorated(Registering):
    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...

    # E[d9d-unregistered]: "on_train_step_post" of "WrongNotDecorated" takes "EventStepContext" as a handler does, but
    #   nothing decorates, subscribes or calls it, so it never runs: decorate it with @subscribe(EVENT_TRAIN_STEP_POST)
    def on_train_step_post(self, ctx: EventStepContext) -> None:
        print(ctx.stepper.current_step)


class WrongAlone(Registering):
    # E[d9d-unregistered]: "on_optimizer_ready" of "WrongAlone" takes "EventOptimizerReadyContext" as a handler does,
    #   but nothing decorates, subscribes or calls it, so it never runs: decorate it with
    #   @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer_ready(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer


class WrongSubscriber:
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before_everything(self, ctx: EventStepContext) -> None: ...

    # E[d9d-unregistered]: "after_everything" of "WrongSubscriber" takes "EventStepContext" as a handler does, but
    #   nothing decorates, subscribes or calls it, so it never runs: decorate it with @subscribe(EVENT_...)
    def after_everything(self, moment: EventStepContext, *, quiet: bool = False) -> None:
        print(moment, quiet)


class WrongName(TrainTask):
    # E[d9d-unregistered]: Nothing calls "registerEvents" of "WrongName", which takes "RegisterTaskEventsContext": the
    #   loop calls "register_events". Give it that name, or call it from there
    def registerEvents(self, ctx: RegisterTaskEventsContext) -> None:  # noqa: N802
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, print)


class WrongNested(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-unregistered]: Nothing registers the function "note", a handler of EVENT_TRAIN_STEP_POST
        #   ("train.step.post"), so it is never called: call subscribe_annotated(ctx.event_bus, ...) with it where it is
        #   defined
        @subscribe(EVENT_TRAIN_STEP_POST)
        def note(step: EventStepContext) -> None:
            print(step)


class WrongCoroutine(TrainTask):
    # E[d9d-uncalled]: "register_events" of "WrongCoroutine" makes a coroutine, which the loop does not run, so nothing
    #   in it is called: remove async
    async def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, print)


class WrongGenerator(TrainTask):
    # E[d9d-uncalled]: "register_events" of "WrongGenerator" makes a generator, which the loop does not run, so nothing
    #   in it is called: remove yield
    def register_events(self, ctx: RegisterTaskEventsContext) -> Iterator[None]:
        subscribe_annotated(ctx.event_bus, self)
        yield

    @subscribe(EVENT_TRAIN_STEP_POST)
    def note(self, ctx: EventStepContext) -> None: ...


class WrongHelpers(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-uncalled]: This iterator is never consumed, so nothing in it is called: write a for loop
        self._attach(ctx.event_bus)
        # E[d9d-uncalled]: This coroutine is never awaited, so nothing in it is called: await it, or make the function
        #   one without async
        self._attach_later(ctx.event_bus)
        # E[d9d-uncalled]: This iterator is never consumed, so nothing in it is called: write a for loop
        map(functools.partial(subscribe_annotated, ctx.event_bus), [RightSubscriber()])

    def _attach(self, bus: EventBus) -> Iterator[object]:
        yield bus.subscribe(EVENT_TRAIN_STEP_POST, print)

    async def _attach_later(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, print)


class WrongCalled(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-handler]: bus.subscribe gets None in place of a handler, and raises a TypeError: pass the function
        #   itself, and do not call it
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.note(3))

    def note(self, number: int) -> None: ...


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


class WrongReplaced(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def note(self, ctx: EventStepContext) -> None: ...


# E[d9d-dropped]: This replaces "note", a handler of EVENT_TRAIN_STEP_POST ("train.step.post"), by a function without
#   its tag, so it is never called: decorate the function with @subscribe, or use functools.wraps in what makes it
WrongReplaced.note = bare(WrongReplaced.note)


def wrong_after_the_run() -> None:
    trainer = TrainingConfigurator(
        config=TrainingConfig(total_steps=1, global_batch_size=1),
        task=TrainTask(),
        model_provider=lambda: None,
        dataset_provider=[],
        subscribers=[WrongSubscriber(), RightSubscriber()],
    ).configure()
    trainer.event_bus.subscribe(EVENT_TRAIN_FINISHED, right_end)
    trainer.train()
    # E[d9d-late]: EVENT_TRAIN_FINISHED ("train.finished") is over when the run in line 143 has ended, so the handler is
    #   never called: subscribe it before the run
    trainer.event_bus.subscribe(EVENT_TRAIN_FINISHED, print)


def right_end(ctx: EventTrainFinishedContext) -> None: ...


class RightTemplate(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def _call(self, ctx: EventStepContext) -> None:
        self.on_step_post(ctx)

    def on_step_post(self, ctx: EventStepContext) -> None: ...


class RightOverride(RightTemplate):
    def on_step_post(self, ctx: EventStepContext) -> None:
        print("step")


class RightMixin:
    def on_mixed_post(self, ctx: EventStepContext) -> None: ...


class RightBase(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def _mixed(self, ctx: EventStepContext) -> None:
        self.on_mixed_post(ctx)


class RightMixed(RightMixin, RightBase): ...


class RightSubscriber:
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before_all(self, ctx: EventStepContext) -> None:
        if self.is_due(ctx):
            self.on_due(ctx)

    def is_due(self, ctx: EventStepContext) -> bool:
        return ctx.stepper.is_due(3)

    def on_due(self, ctx: EventStepContext) -> None: ...


class RightNested(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        @subscribe(EVENT_TRAIN_STEP_POST)
        def note(step: EventStepContext) -> None:
            print(step)

        subscribe_annotated(ctx.event_bus, note)
        for each in self._handlers():
            subscribe_annotated(ctx.event_bus, each)
        list(self._attach(ctx.event_bus))
        asyncio.run(self._attach_now(ctx.event_bus))

    def _handlers(self) -> list[object]:
        @subscribe(EVENT_TRAIN_STEP_POST)
        def other(step: EventStepContext) -> None:
            print(step)

        return [other]

    def _attach(self, bus: EventBus) -> Iterator[object]:
        yield bus.subscribe(EVENT_TRAIN_STEP_POST, print)

    async def _attach_now(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, print)


class RightFluent(TrainTask):
    hook: Callable[[EventStepContext], None] | None = None

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._subscribed(ctx.event_bus)
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self._made())
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, self.hook)

    def _subscribed(self, bus: EventBus) -> Iterator[object]:
        subscribe_annotated(bus, self)
        return iter([self])

    def _made(self) -> Callable[[EventStepContext], None]:
        """Return a handler; those that override this do."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def note(self, ctx: EventStepContext) -> None: ...


class WrongWithoutDecorator:
    """A listener of a program that configures a loop: nothing else calls its methods."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    # E[d9d-unregistered]: "summarise" of "WrongWithoutDecorator" takes "EventStepContext" as a handler does, but
    #   nothing decorates, subscribes or calls it, so it never runs: decorate it with @subscribe(EVENT_...)
    def summarise(self, ctx: EventStepContext) -> None: ...


TrainingConfigurator(config=None, subscribers=[WrongWithoutDecorator()])
