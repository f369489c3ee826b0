"""Handlers and triggers of an event that is one of several, whose contexts may differ."""

from collections.abc import Callable

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventReadyContext

from d9d.loop.event import EventBus


def note(ctx: object) -> None: ...


def on_ready(ctx: EventReadyContext) -> None: ...


class Right:
    def on_any(self, ctx: EventReadyContext | EventStepContext) -> None: ...

    def in_a_loop(self, bus: EventBus) -> None:
        for event in (EVENT_TRAIN_READY, EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST):
            bus.subscribe(event, self.on_any)

    def by_condition(self, bus: EventBus, *, is_early: bool) -> None:
        event = EVENT_TRAIN_READY if is_early else EVENT_TRAIN_STEP_POST
        bus.subscribe(event, note, once=True)

    def by_lambda(self, bus: EventBus, *, is_early: bool) -> None:
        bus.subscribe(EVENT_TRAIN_READY if is_early else EVENT_TRAIN_STEP_POST, lambda ctx: note(ctx))  # noqa: PLW0108

    def of_one_context(self, bus: EventBus, handler: Callable[[EventStepContext], None]) -> None:
        for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST):
            bus.subscribe(event, handler)
            bus.trigger(event, EventStepContext(step=1))


class Wrong:
    def in_a_loop(self, bus: EventBus) -> None:
        for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_READY):
            # E[d9d-handler]: Handler "on_ready" of event takes "EventReadyContext", but the event carries
            #   "EventStepContext": annotate "ctx" with "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
            bus.subscribe(event, on_ready)

    def by_condition(self, bus: EventBus, *, is_early: bool) -> None:
        # E[d9d-handler]: Handler "on_ready" of an event takes "EventReadyContext", but the event carries
        #   "EventStepContext": annotate "ctx" with "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
        bus.subscribe(EVENT_TRAIN_READY if is_early else EVENT_TRAIN_STEP_PRE, on_ready)

    def triggered(self, bus: EventBus, *, is_early: bool) -> None:
        # E[d9d-context]: an event is triggered with "EventReadyContext", but carries "EventStepContext": pass an object
        #   of type "EventStepContext". Did you mean the event EVENT_TRAIN_READY?
        bus.trigger(EVENT_TRAIN_READY if is_early else EVENT_TRAIN_STEP_PRE, EventReadyContext())
