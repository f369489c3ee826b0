"""Re-exports a deprecated name, and defines events whose names resemble deprecated ones."""

from typing import Protocol

from lab.events.trial import EVENT_TRIAL_TURN_POST

from d9d.loop.event import Event

__all__ = ["EVENT_TRIAL_ROUND_POST", "EVENT_TRIAL_TURN_POST", "EventTurnContext", "Titled"]

EVENT_TRIAL_ROUND_POST = Event[int](id="user.round_post")


class EventTurnContext:
    """A class of the user's own."""

    label = "right"


class Titled(Protocol):
    """What has a label."""

    @property
    def label(self) -> str: ...


def right_of_this_module(ctx: EventTurnContext) -> str:
    return ctx.label
