"""Lambdas as handlers: their value does no harm, unless it is what should have been called."""

import collections
import itertools

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST

from d9d.loop.event import EventBus, subscribe

COUNTER = itertools.count()


class Right:
    def __init__(self) -> None:
        self.counts = collections.Counter[int]()
        self.pending = [1, 2, 3]

    def register(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda _: self.pending.pop())
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: self.counts.setdefault(ctx.step, 0))
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: self.pending.pop() if ctx.step > 1 else None)
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda _, more=COUNTER: next(more))
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: [self.pending, ctx.step])

    on_step = subscribe(EVENT_TRAIN_STEP_POST)(lambda self, ctx: (self, ctx.step))


class Wrong:
    def note(self, ctx: EventStepContext) -> None: ...

    async def upload(self, ctx: EventStepContext) -> None: ...

    def register(self, bus: EventBus) -> None:
        # E[d9d-handler]: Handler <lambda> of EVENT_TRAIN_STEP_POST ("train.step.post") returns a function and does not
        #   call it, so the function never runs: call it in the lambda, or subscribe the function itself
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda _: self.note)
        # E[d9d-handler]: Handler <lambda> of EVENT_TRAIN_STEP_POST ("train.step.post") returns a function and does not
        #   call it, so the function never runs: call it in the lambda, or subscribe the function itself
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: lambda: self.note(ctx))
        # E[d9d-handler]: Handler <lambda> of EVENT_TRAIN_STEP_POST ("train.step.post") is asynchronous, but the bus
        #   does not await handlers: define it with "def"; a handler takes "EventStepContext" and returns None
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: self.upload(ctx))  # noqa: PLW0108
        # E[attr-defined]: "EventStepContext" has no attribute "stop"
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: ctx.stop)
