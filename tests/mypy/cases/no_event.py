"""`subscribe` with something in place of an event, or with nothing."""

from typing import Any

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST

from d9d.loop.event import Event, EventBus, subscribe

anything: Any = EVENT_TRAIN_STEP_POST


class Wrong:
    # E[d9d-handler]: @subscribe needs an event, but found "str": pass the constant of the event, as in
    #   @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe("train.step.post")
    def by_id(self, ctx: EventStepContext) -> None: ...

    # E[d9d-handler]: @subscribe needs an event, but found "type[EventStepContext]": pass the constant of the event, as
    #   in @subscribe(EVENT_TRAIN_READY)
    @subscribe(EventStepContext)
    def by_context(self, ctx: EventStepContext) -> None: ...

    # E[d9d-handler]: @subscribe needs an event, but found "list[Event[EventStepContext]]": pass the constant of the
    #   event, as in @subscribe(EVENT_TRAIN_READY)
    @subscribe([EVENT_TRAIN_STEP_POST], every=10)
    def by_list(self, ctx: EventStepContext) -> None: ...


class Right:
    @subscribe(anything)
    def of_any(self, ctx: EventStepContext) -> None: ...

    @subscribe(event=EVENT_TRAIN_STEP_POST)
    def by_keyword(self, ctx: EventStepContext) -> None: ...

    def register(self, bus: EventBus, event: Event[EventStepContext] | Any) -> None:
        bus.subscribe(event, subscribe(event)(self.by_keyword))


# N: "bare" is decorated with @subscribe without an event: write the event, as in @subscribe(EVENT_TRAIN_READY)
# E[arg-type]: Argument 1 to "subscribe" has incompatible type "Callable[[EventStepContext], None]"; expected
#   "Event[Never]"
@subscribe
def bare(ctx: EventStepContext) -> None: ...


class Bare:
    # N: "on_step" is decorated with @subscribe without an event: write the event, as in @subscribe(EVENT_TRAIN_READY)
    # E[arg-type]: Argument 1 to "subscribe" has incompatible type "Callable[[Bare, EventStepContext], None]"; expected
    #   "Event[Never]"
    @subscribe
    def on_step(self, ctx: EventStepContext) -> None: ...
