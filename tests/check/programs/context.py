"""Events that are triggered with the context of another one."""

import dataclasses
from typing import Final, Protocol

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_EVALUATION_FINISHED, EventEvaluationFinishedContext


@dataclasses.dataclass(frozen=True)
class BestContext:
    value: float


@dataclasses.dataclass(frozen=True)
class PreciseContext(BestContext):
    digits: int


@dataclasses.dataclass(frozen=True)
class OtherContext:
    value: float


class HasValue(Protocol):
    value: float


EVENT_BEST: Event[BestContext] = Event(id="user.best")
EVENT_OTHER = Event[OtherContext](id="user.other")
EVENT_VALUE: Final[Event[HasValue]] = Event(id="user.value")
EVENT_EITHER: Event[BestContext | OtherContext] = Event(id="user.either")


class Judge(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._bus = ctx.event_bus
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def wrong_at_hand(self, ctx: EventEvaluationFinishedContext) -> None:
        # E[d9d-context]: EVENT_BEST ("user.best") is triggered with "EventEvaluationFinishedContext", but carries
        #   "BestContext": pass an object of type "BestContext"
        self._bus.trigger(EVENT_BEST, ctx)

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def right(self, ctx: EventEvaluationFinishedContext) -> None:
        self._bus.trigger(EVENT_BEST, PreciseContext(ctx.metrics["loss"], digits=3))
        self._bus.trigger(EVENT_VALUE, BestContext(ctx.metrics["loss"]))
        self._bus.trigger(EVENT_EITHER, OtherContext(ctx.metrics["loss"]))


def wrong_own(bus: EventBus, best: BestContext) -> None:
    # E[d9d-context]: EVENT_OTHER ("user.other") is triggered with "BestContext", but carries "OtherContext": pass an
    #   object of type "OtherContext"
    bus.trigger(EVENT_OTHER, best)


def wrong_of_loop(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_TRAIN_EVALUATION_FINISHED ("train.evaluation.finished") is triggered with "BestContext", but
    #   carries "EventEvaluationFinishedContext": pass an object of type "EventEvaluationFinishedContext"
    bus.trigger(EVENT_TRAIN_EVALUATION_FINISHED, BestContext(1.0))


def wrong_emitter(bus: EventBus, ctx: EventStepContext) -> None:
    # E[d9d-context]: EVENT_BEST ("user.best") is triggered with "EventStepContext", but carries "BestContext": pass an
    #   object of type "BestContext"
    bus.emitter(EVENT_BEST).call(ctx)


def right_may_be_derived(bus: EventBus, best: BestContext) -> None:
    bus.trigger(EVENT_BEST, best)


def right_unknown(bus: EventBus, anything: object) -> None:
    bus.trigger(EVENT_BEST, anything)
