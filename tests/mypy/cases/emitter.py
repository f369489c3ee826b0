"""Objects that trigger one event each."""

from collections.abc import Callable
from typing import Any

from lab.events.trial import EVENT_TRIAL_READY
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventReadyContext

from d9d.loop.event import Event, EventBus
from d9d.loop.event.bus import Emitter

EVENT_SAVED: Event[str] = Event(id="user.saved_to")


# docs: d9d-emitter
def wrong(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    saved = bus.emitter(EVENT_SAVED)
    if not saved.handlers:
        return


def right(bus: EventBus) -> None:
    saved = bus.emitter(EVENT_SAVED)
    if saved.handlers:
        saved.call("step-3")


# docs: end


def wrong_discarded(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    bus.emitter(EVENT_SAVED)


def wrong_kept(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    saved = bus.emitter(EVENT_SAVED)


def wrong_only_asked_for_handlers(bus: EventBus) -> bool:
    # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    return bool(bus.emitter(EVENT_SAVED).handlers)


def wrong_of_a_catalogue(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_TRIAL_READY ("trial.ready"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    bus.emitter(event=EVENT_TRIAL_READY)


# E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method "call":
#   keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
EventBus().emitter(EVENT_SAVED)


def wrong_one_of_two(bus: EventBus, context: EventStepContext) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_TRAIN_STEP_POST ("train.step.post"), because nothing calls its
    #   method "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    step_pre, step_post = bus.emitter(EVENT_TRAIN_STEP_PRE), bus.emitter(EVENT_TRAIN_STEP_POST)
    step_pre.call(context)


def wrong_context(bus: EventBus, context: EventStepContext) -> None:
    saved = bus.emitter(EVENT_SAVED)
    saved.call("step-3")
    # E[d9d-context]: EVENT_SAVED ("user.saved_to") is triggered with "EventStepContext", but carries "str": pass an
    #   object of type "str". Did you mean the event EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or
    #   EVENT_INFERENCE_STEP_POST?
    saved.call(context)
    # E[d9d-context]: EVENT_SAVED ("user.saved_to") is triggered with "EventStepContext", but carries "str": pass an
    #   object of type "str". Did you mean the event EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or
    #   EVENT_INFERENCE_STEP_POST?
    bus.emitter(EVENT_SAVED).call(context)
    saved.call(context)  # type: ignore[arg-type]


def wrong_context_of_a_catalogue(bus: EventBus) -> None:
    step_pre = bus.emitter(EVENT_TRAIN_STEP_PRE)
    # E[d9d-context]: EVENT_TRAIN_STEP_PRE ("train.step.pre") is triggered with "EventReadyContext", but carries
    #   "EventStepContext": pass an object of type "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
    step_pre.call(EventReadyContext())
    # E[d9d-context]: EVENT_TRAIN_STEP_PRE ("train.step.pre") is triggered with the class "EventStepContext" itself, not
    #   with an object of it: call the class with its fields
    step_pre.call(EventStepContext)


def wrong_context_of_an_unknown_event(emitter: Emitter[EventStepContext]) -> None:
    # E[d9d-context]: an event is triggered with "EventReadyContext", but carries "EventStepContext": pass an object of
    #   type "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
    emitter.call(EventReadyContext())


def right_returned(bus: EventBus) -> Emitter[EventStepContext]:
    return bus.emitter(EVENT_TRAIN_STEP_PRE)


def right_passed_as_a_function(bus: EventBus) -> Callable[[EventStepContext], None]:
    return bus.emitter(EVENT_TRAIN_STEP_PRE).call


def right_in_a_pair(bus: EventBus, context: EventStepContext) -> None:
    step_pre, step_post = bus.emitter(EVENT_TRAIN_STEP_PRE), bus.emitter(EVENT_TRAIN_STEP_POST)
    step_pre.call(context)
    step_post.call(context)


def right_within(bus: EventBus) -> Callable[[EventStepContext], None]:
    step_pre = bus.emitter(EVENT_TRAIN_STEP_PRE)

    def begin(context: EventStepContext) -> None:
        step_pre.call(context)

    return begin


def right_with_any_context(emitter: Emitter[EventStepContext], context: Any) -> None:
    emitter.call(context)


class RightOwner:
    def __init__(self, bus: EventBus) -> None:
        self.step_pre = bus.emitter(EVENT_TRAIN_STEP_PRE)

    def begin(self, context: EventStepContext) -> None:
        self.step_pre.call(context)

    def wrong(self) -> None:
        # E[d9d-context]: EVENT_TRAIN_STEP_PRE ("train.step.pre") is triggered with "EventReadyContext", but carries
        #   "EventStepContext": pass an object of type "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
        self.step_pre.call(EventReadyContext())
