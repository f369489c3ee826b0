"""Events that are triggered with a context."""

from typing import Any, Generic, TypeVar

from lab.events import trial
from lab.events.trial import EVENT_TRIAL_READY, EVENT_TRIAL_TURN_POST, EventRoundContext, EventTrialReadyContext
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventReadyContext
from torch import zeros

from d9d.loop.event import Event, EventBus

TContext = TypeVar("TContext")


class LastStepContext(EventStepContext): ...


# docs: d9d-context
def wrong(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_TRAIN_STEP_POST ("train.step.post") is triggered with "EventReadyContext", but carries
    #   "EventStepContext": pass an object of type "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
    bus.trigger(EVENT_TRAIN_STEP_POST, EventReadyContext())


def right(bus: EventBus) -> None:
    bus.trigger(EVENT_TRAIN_STEP_POST, EventStepContext(step=1))


# docs: end


def wrong_literal(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_TRAIN_STEP_PRE ("train.step.pre") is triggered with "int", but carries "EventStepContext":
    #   pass an object of type "EventStepContext"
    bus.trigger(EVENT_TRAIN_STEP_PRE, 1)
    # E[d9d-context]: EVENT_TRAIN_READY ("train.ready") is triggered with "None", but carries "EventReadyContext": pass
    #   an object of type "EventReadyContext"
    bus.trigger(EVENT_TRAIN_READY, None)


def wrong_class(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_TRAIN_READY ("train.ready") is triggered with the class "EventReadyContext" itself, not with
    #   an object of it: call the class with its fields
    bus.trigger(EVENT_TRAIN_READY, EventReadyContext)


def wrong_by_keyword(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_TRIAL_READY ("trial.ready") is triggered with "EventRoundContext", but carries
    #   "EventTrialReadyContext": pass an object of type "EventTrialReadyContext". Did you mean the event
    #   EVENT_TRIAL_DRAW_PRE, EVENT_TRIAL_DRAW_POST or EVENT_TRIAL_ROUND_PRE?
    bus.trigger(context=EventRoundContext(index=0, losses=zeros(1)), event=EVENT_TRIAL_READY)


def wrong_optional(bus: EventBus, context: EventStepContext | None) -> None:
    # E[d9d-context]: EVENT_TRAIN_STEP_PRE ("train.step.pre") is triggered with "EventStepContext | None", but carries
    #   "EventStepContext": pass an object of type "EventStepContext"
    bus.trigger(EVENT_TRAIN_STEP_PRE, context)


def wrong_in_a_block(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_TRAIN_STEP_PRE ("train.step.pre") is triggered with "EventReadyContext", but carries
    #   "EventStepContext": pass an object of type "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
    with bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, EventReadyContext()):
        pass


# E[d9d-context]: EVENT_TRAIN_READY ("train.ready") is triggered with "EventStepContext", but carries
#   "EventReadyContext": pass an object of type "EventReadyContext". Did you mean the event EVENT_TRAIN_STEP_PRE,
#   EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
EventBus().trigger(EVENT_TRAIN_READY, EventStepContext(step=0))


def right_in_many_ways(bus: EventBus, anything: Any, step: EventStepContext | LastStepContext) -> None:
    bus.trigger(EVENT_TRAIN_STEP_PRE, LastStepContext(step=1))
    bus.trigger(EVENT_TRAIN_STEP_PRE, anything)
    bus.trigger(EVENT_TRAIN_STEP_PRE, step)
    bus.trigger(context=step, event=EVENT_TRAIN_STEP_PRE)
    bus.trigger(trial.EVENT_TRIAL_READY, EventTrialReadyContext(title="first"))
    bus.trigger(EVENT_TRIAL_TURN_POST, EventRoundContext(index=0, losses=zeros(1)))  # type: ignore[d9d-deprecated]
    bus.trigger(anything, 1)
    bus.trigger(*anything)
    bus.trigger(**anything)
    with bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, LastStepContext(step=2)):
        pass


def right_in_a_loop(bus: EventBus, context: EventStepContext) -> None:
    for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST):
        bus.trigger(event, context)


def right_generic(bus: EventBus, event: Event[TContext], context: TContext) -> None:
    bus.trigger(event, context)
    with bus.bounded(event_pre=event, event_post=event, context=context):
        pass


class RightGeneric(Generic[TContext]):
    def __init__(self, event: Event[TContext]) -> None:
        self.event = event

    def tell(self, bus: EventBus, context: TContext) -> None:
        bus.trigger(self.event, context)


RightGeneric(EVENT_TRAIN_STEP_PRE).tell(EventBus(), EventStepContext(step=1))
EVENT_LISTED: Event[list[int]] = Event(id="user.listed")
EventBus().trigger(EVENT_LISTED, [])
