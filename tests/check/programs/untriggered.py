"""Events of a program that nothing triggers, and events that end in themselves."""

import functools
import threading

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext

EVENT_FORGOTTEN = Event[EventStepContext](id="user.forgotten")
EVENT_BY_HAND = Event[EventStepContext](id="user.by_hand")
EVENT_PRE = Event[EventStepContext](id="user.block.pre")
EVENT_POST = Event[EventStepContext](id="user.block.post")
EVENT_PASSED_ON = Event[EventStepContext](id="user.passed_on")
EVENT_ROUND = Event[EventStepContext](id="user.round")


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._bus = ctx.event_bus
        subscribe_annotated(ctx.event_bus, self)


class WrongTagged(Registering):
    # E[d9d-untriggered]: Nothing triggers EVENT_FORGOTTEN ("user.forgotten"), so its handlers are never called: trigger
    #   it where it happens, with bus.trigger or an emitter
    @subscribe(EVENT_FORGOTTEN)
    def on_forgotten(self, ctx: EventStepContext) -> None: ...


def wrong_by_hand(bus: EventBus) -> None:
    # E[d9d-untriggered]: Nothing triggers EVENT_BY_HAND ("user.by_hand"), so its handlers are never called: trigger it
    #   where it happens, with bus.trigger or an emitter
    bus.subscribe(EVENT_BY_HAND, print)


class Names:
    LOCAL = Event[EventStepContext](id="user.local")


class WrongOfClass(Registering):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        # E[d9d-untriggered]: Nothing triggers LOCAL ("user.local"), so its handlers are never called: trigger it where
        #   it happens, with bus.trigger or an emitter
        ctx.event_bus.subscribe(Names.LOCAL, self.on_local)

    def on_local(self, ctx: EventStepContext) -> None: ...


class WrongRound(Registering):
    @subscribe(EVENT_ROUND)
    def on_round(self, ctx: EventStepContext) -> None:
        self._again(ctx)

    def _again(self, ctx: EventStepContext) -> None:
        # E[d9d-recursion]: Handler "on_round" of EVENT_ROUND ("user.round") triggers this event again, without end:
        #   trigger another event, or call what it should do
        self._bus.trigger(EVENT_ROUND, ctx)


class WrongContext(Registering):
    def announce(self) -> None:
        # E[d9d-context]: EVENT_ROUND ("user.round") is triggered with "int", but carries "EventStepContext": pass an
        #   object of type "EventStepContext"
        threading.Thread(target=self._bus.trigger, args=(EVENT_ROUND, 3)).start()


class WrongBlock(Registering):
    @subscribe(EVENT_PRE)
    def on_begin(self, ctx: EventStepContext) -> None:
        # E[d9d-recursion]: Handler "on_begin" of EVENT_PRE ("user.block.pre") triggers this event again, without end:
        #   trigger another event, or call what it should do
        with self._bus.bounded(EVENT_PRE, EVENT_POST, ctx):
            print("inside")


class WrongEmitter(Registering):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        self._round = ctx.event_bus.emitter(EVENT_ROUND)

    @subscribe(EVENT_ROUND)
    def on_round_too(self, ctx: EventStepContext) -> None:
        # E[d9d-recursion]: Handler "on_round_too" of EVENT_ROUND ("user.round") triggers this event again, without end:
        #   trigger another event, or call what it should do
        self._round.call(ctx)

    def announce(self) -> None:
        # E[d9d-context]: EVENT_ROUND ("user.round") is triggered with "str", but carries "EventStepContext": pass an
        #   object of type "EventStepContext"
        self._round.call("begin")
        later = functools.partial(self._bus.trigger, EVENT_ROUND)
        # E[d9d-context]: EVENT_ROUND ("user.round") is triggered with "float", but carries "EventStepContext": pass an
        #   object of type "EventStepContext"
        later(0.5)


class RightEmitter(Registering):
    @subscribe(EVENT_ROUND)
    def on_round_at_last(self, ctx: EventStepContext) -> None:
        self.emitter = self._bus.emitter(EVENT_ROUND)


class Right(Registering):
    @subscribe(EVENT_PRE)
    @subscribe(EVENT_POST)
    def on_block(self, ctx: EventStepContext) -> None:
        if ctx.stepper.is_due(10):
            self._bus.trigger(EVENT_POST, ctx)

    @subscribe(EVENT_PASSED_ON)
    def on_passed(self, ctx: EventStepContext) -> None: ...

    def run(self, ctx: EventStepContext) -> None:
        with self._bus.bounded(EVENT_PRE, EVENT_POST, ctx):
            trigger_later(self._bus, EVENT_PASSED_ON)


def trigger_later(bus: EventBus, event: Event[EventStepContext]) -> None:
    print(bus, event)


def relay(one: EventBus, other: EventBus) -> None:
    one.subscribe(EVENT_ROUND, lambda ctx: other.trigger(EVENT_ROUND, ctx))
