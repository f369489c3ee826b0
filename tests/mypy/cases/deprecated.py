"""Uses of what the catalogue of a trial deprecates."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import deprecated_base
import lab.events.trial
import lab.events.trial as events
from deprecated_base import EVENT_TRIAL_ROUND_POST as RIGHT_EVENT_OF_THE_SAME_NAME
from deprecated_base import EVENT_TRIAL_TURN_POST as EVENT_HANDED_ON
from deprecated_base import Titled
from lab.events import trial
from lab.events.trial import (
    EVENT_TRIAL_PAUSED,
    EVENT_TRIAL_READY,
    EVENT_TRIAL_ROUND_POST,
    EVENT_TRIAL_TURN_POST,
    EventRoundContext,
    EventTrialPausedContext,
    EventTrialReadyContext,
    EventTurnContext,
)
from lab.events.trial import EVENT_TRIAL_TURN_POST as EVENT_RENAMED

from d9d.loop.event import Event, EventBus, subscribe

TContext = TypeVar("TContext")


# docs: d9d-deprecated
# E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
#   instead. Turns are called rounds now.
@subscribe(EVENT_TRIAL_TURN_POST)
def wrong_event(ctx: EventRoundContext) -> None: ...


@subscribe(EVENT_TRIAL_ROUND_POST)
def right_event(ctx: EventRoundContext) -> None: ...


# docs: end


@subscribe(EVENT_TRIAL_ROUND_POST)
# E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
def wrong_annotation(ctx: EventTurnContext) -> None: ...


@subscribe(EVENT_TRIAL_READY)
def wrong_field(ctx: EventTrialReadyContext) -> None:
    # E[d9d-deprecated]: EventTrialReadyContext.label is deprecated since 0.2: use title instead
    str(ctx.label)


@subscribe(EVENT_TRIAL_READY)
def wrong_field_without_replacement(ctx: EventTrialReadyContext) -> None:
    # E[d9d-deprecated]: EventTrialReadyContext.mood is deprecated since 0.3: there is no replacement. Nobody asks.
    str(ctx.mood)


@subscribe(EVENT_TRIAL_READY)
def right_field(ctx: EventTrialReadyContext) -> None:
    str(ctx.title)


class Wrong:
    def __init__(self, bus: EventBus) -> None:
        # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use
        #   EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.
        bus.subscribe(trial.EVENT_TRIAL_TURN_POST, self.right)
        # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use
        #   EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.
        bus.subscribe(lab.events.trial.EVENT_TRIAL_TURN_POST, self.right)
        # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use
        #   EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.
        bus.subscribe(events.EVENT_TRIAL_TURN_POST, self.right)
        # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use
        #   EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.
        bus.subscribe(EVENT_RENAMED, self.right)
        # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use
        #   EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.
        bus.subscribe(EVENT_HANDED_ON, self.right)
        # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use
        #   EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.
        bus.subscribe(deprecated_base.EVENT_TRIAL_TURN_POST, self.right)
        bus.subscribe(RIGHT_EVENT_OF_THE_SAME_NAME, self.right_of_the_same_name)
        bus.trigger(RIGHT_EVENT_OF_THE_SAME_NAME, 1)

    # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
    #   instead. Turns are called rounds now.
    @subscribe(EVENT_TRIAL_TURN_POST)
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def right(self, ctx: EventRoundContext) -> None: ...

    def right_of_the_same_name(self, ctx: int) -> None: ...


# E[d9d-deprecated]: EVENT_TRIAL_PAUSED ("trial.paused") is deprecated since 0.2: there is no replacement. Nothing
#   pauses a trial any more.
@subscribe(EVENT_TRIAL_PAUSED)
# E[d9d-deprecated]: EventTrialPausedContext is deprecated since 0.2: there is no replacement
def wrong_without_replacement(ctx: EventTrialPausedContext) -> None: ...


WRONG_LIST = [
    EVENT_TRIAL_READY,
    # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
    #   instead. Turns are called rounds now.
    EVENT_TRIAL_TURN_POST,
]
# E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
#   instead. Turns are called rounds now.
WRONG_ALIAS = EVENT_TRIAL_TURN_POST
# E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
WRONG_ALIAS_OF_CONTEXT = EventTurnContext
# E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
WRONG_EVENT = Event[EventTurnContext](id="user.turn")
# E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
WRONG_NESTED: dict[str, "list[EventTurnContext | None]"] = {}
# E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
WRONG_CAST = cast("EventTurnContext", None)


# E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
class WrongBase(EventTurnContext):
    """A context of a user's own, on the older name."""


class WrongTitled(EventTrialReadyContext):
    """A context that reads a deprecated field of its base."""

    def shout(self) -> str:
        # E[d9d-deprecated]: EventTrialReadyContext.label is deprecated since 0.2: use title instead
        return self.label.upper()


class RightTitled(EventTrialReadyContext):
    """A context that defines a field of that name itself."""

    @property
    def label(self) -> str:
        return self.title


def wrong_uses(ctx: EventTrialReadyContext | WrongTitled, other: object, round_: EventRoundContext) -> object:
    # E[d9d-deprecated]: EventTrialReadyContext.label is deprecated since 0.2: use title instead
    str(ctx.label)
    # E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
    if isinstance(other, EventTurnContext):
        # E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
        return EventTurnContext(index=1, losses=round_.losses)
    match other:
        # E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
        case EventTurnContext(index=1):
            return None
    # E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
    #   instead. Turns are called rounds now.
    # E[d9d-deprecated]: EventTurnContext is deprecated since 0.2: use EventRoundContext instead
    return lambda default=EVENT_TRIAL_TURN_POST: {default: functools.partial(print, EventTurnContext)}


def right_uses(titled: RightTitled, ctx: EventTrialReadyContext, anything: Any) -> list[str]:
    label = anything.label

    def local(EVENT_TRIAL_TURN_POST: int, EventTurnContext: int) -> int:  # noqa: N803 -- they hide what is imported
        return EVENT_TRIAL_TURN_POST + EventTurnContext

    class Label:
        label = "a label"
        EVENT_TRIAL_TURN_POST = "another"

    return [titled.label, ctx.title, label, Label().label, Label.EVENT_TRIAL_TURN_POST, str(local(1, 2))]


def right_protocol(ctx: EventTrialReadyContext) -> Titled:
    return ctx


try:
    from lab.events.trial import EVENT_TRIAL_TURN_POST as RIGHT_FALLBACK
except ImportError:
    RIGHT_FALLBACK = EVENT_TRIAL_ROUND_POST

if not TYPE_CHECKING:
    RIGHT_UNREACHABLE = EVENT_TRIAL_TURN_POST


@dataclasses.dataclass
class RightGeneric:
    context: EventRoundContext
    EventTurnContext: int = 1


def right_generic(event: Event[TContext], handler: Callable[[TContext], None], bus: EventBus) -> None:
    bus.subscribe(event, handler)
