"""Functions that trigger one event each."""

from collections.abc import Callable

from lab.events.trial import EVENT_TRIAL_READY
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE

from d9d.loop.event import Event, EventBus

EVENT_SAVED: Event[str] = Event(id="user.saved_to")


# docs: d9d-emitter
def wrong(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    bus.emitter(EVENT_SAVED)


def right(bus: EventBus) -> None:
    saved = bus.emitter(EVENT_SAVED)
    saved("step-3")


# docs: end


def wrong_kept(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    saved = bus.emitter(EVENT_SAVED)


def wrong_of_a_catalogue(bus: EventBus) -> None:
    # E[d9d-emitter]: This emitter never triggers EVENT_TRIAL_READY ("trial.ready"), because nothing calls its method
    #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
    bus.emitter(event=EVENT_TRIAL_READY)


# E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved_to"), because nothing calls its method "call":
#   keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
EventBus().emitter(EVENT_SAVED)


def wrong_context(bus: EventBus, context: EventStepContext) -> None:
    saved = bus.emitter(EVENT_SAVED)
    saved("step-3")
    saved(context)  # type: ignore[arg-type]
    bus.emitter(EVENT_SAVED)(context)  # type: ignore[arg-type]


def right_returned(bus: EventBus) -> Callable[[EventStepContext], None]:
    return bus.emitter(EVENT_TRAIN_STEP_PRE)


def right_in_a_pair(bus: EventBus, context: EventStepContext) -> None:
    step_pre, step_post = bus.emitter(EVENT_TRAIN_STEP_PRE), bus.emitter(EVENT_TRAIN_STEP_POST)
    step_pre(context)
    step_post(context)


def right_within(bus: EventBus) -> Callable[[EventStepContext], None]:
    step_pre = bus.emitter(EVENT_TRAIN_STEP_PRE)

    def begin(context: EventStepContext) -> None:
        step_pre(context)

    return begin


class RightOwner:
    def __init__(self, bus: EventBus) -> None:
        self.step_pre = bus.emitter(EVENT_TRAIN_STEP_PRE)
