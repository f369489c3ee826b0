"""Shared by the tests of subscriptions: two events, a context that records calls, and a class with handlers."""

import dataclasses

from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated


@dataclasses.dataclass(kw_only=True)
class Context:
    """Records which handlers were called, in order."""

    seen: list[str] = dataclasses.field(default_factory=list)


EVENT_A = Event[Context](id="user.a")
EVENT_B = Event[Context](id="user.b")


def seen_by(target: object, *events: Event[Context]) -> list[str]:
    """Subscribe a target on a new bus, trigger the events (by default, A), and return the recorded calls."""
    bus = EventBus()
    subscribe_annotated(bus, target)
    context = Context()
    for event in events or (EVENT_A,):
        bus.trigger(event, context)
    return context.seen


class Base:
    @subscribe(EVENT_A)
    def zulu(self, ctx: Context) -> None:
        ctx.seen.append("Base.zulu")

    @subscribe(EVENT_A)
    def alpha(self, ctx: Context) -> None:
        ctx.seen.append("Base.alpha")

    def untagged(self, ctx: Context) -> None:
        ctx.seen.append("Base.untagged")
