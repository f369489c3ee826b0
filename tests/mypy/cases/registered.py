"""Handlers that are passed to `EventBus.subscribe`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventReadyContext

from d9d.loop.event import Event, EventBus

TContext = TypeVar("TContext")


def show(*values: object) -> None: ...


class Log:
    def on_step(self, ctx: EventStepContext) -> None: ...

    def on_tagged_step(self, tag: str, ctx: EventStepContext) -> None: ...

    def __call__(self, ctx: EventStepContext) -> None: ...


def on_step(ctx: EventStepContext, tag: str = "") -> None: ...


def on_tagged_step(tag: str, ctx: EventStepContext) -> None: ...


async def on_step_later(ctx: EventStepContext) -> None: ...


def functions(bus: EventBus) -> None:
    # E[d9d-handler]: Handler "on_step" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, on_step)
    bus.subscribe(EVENT_TRAIN_STEP_POST, on_step)
    # E[d9d-handler]: Handler "on_tagged_step" of EVENT_TRAIN_STEP_POST ("train.step.post") requires "ctx" as well, but
    #   is called with "EventStepContext" alone: give it a default, or bind it with functools.partial
    bus.subscribe(EVENT_TRAIN_STEP_POST, on_tagged_step)
    # E[d9d-handler]: Handler "on_step_later" of EVENT_TRAIN_STEP_POST ("train.step.post") is asynchronous, but the bus
    #   does not await handlers: define it with "def"; a handler takes "EventStepContext" and returns None
    bus.subscribe(EVENT_TRAIN_STEP_POST, on_step_later)
    # E[d9d-handler]: Handler "on_step" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(handler=on_step, event=EVENT_TRAIN_READY)
    bus.subscribe(EVENT_TRAIN_STEP_POST, show)


def objects(bus: EventBus, log: Log) -> None:
    # E[d9d-handler]: Handler "on_step" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, log.on_step)
    bus.subscribe(EVENT_TRAIN_STEP_POST, log.on_step)
    # E[d9d-handler]: Handler "log" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event carries
    #   "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event EVENT_TRAIN_STEP_PRE,
    #   EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, log)
    bus.subscribe(EVENT_TRAIN_STEP_POST, log)
    # E[d9d-handler]: Handler "on_step" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, Log().on_step)
    seen: list[EventStepContext] = []
    # E[d9d-handler]: Handler "append" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate its parameter with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, seen.append)
    bus.subscribe(EVENT_TRAIN_STEP_POST, seen.append)


def lambdas(bus: EventBus) -> None:
    # E[d9d-handler]: Handler "<lambda>" of EVENT_TRAIN_STEP_POST ("train.step.post") takes no positional argument, but
    #   is called with "EventStepContext": add a parameter for it
    bus.subscribe(EVENT_TRAIN_STEP_POST, lambda: None)
    # E[d9d-handler]: Handler "<lambda>" of EVENT_TRAIN_STEP_POST ("train.step.post") requires "tag" as well, but is
    #   called with "EventStepContext" alone: give it a default, or bind it with functools.partial
    bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx, tag: None)
    # E[attr-defined]: "EventStepContext" has no attribute "stepper"
    bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: show(ctx.stepper))
    bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: show(ctx.step))
    bus.subscribe(EVENT_TRAIN_STEP_POST, lambda *args: show(args[0].step))
    for tag in ("a", "b"):
        bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx, tag=tag: show(tag, ctx.step))


def partials(bus: EventBus, log: Log) -> None:
    # E[d9d-handler]: Handler "on_tagged_step" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the
    #   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, functools.partial(on_tagged_step, "a"))
    bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(on_tagged_step, "a"))
    # E[d9d-handler]: Handler "on_tagged_step" of EVENT_TRAIN_STEP_POST ("train.step.post") requires "ctx" as well, but
    #   is called with "EventStepContext" alone: give it a default, or bind it with functools.partial
    bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(on_tagged_step))
    # E[d9d-handler]: Handler "on_tagged_step" of EVENT_TRAIN_STEP_POST ("train.step.post") takes no positional
    #   argument, but is called with "EventStepContext": add a parameter for it
    bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(on_tagged_step, tag="a"))
    bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(on_step, tag="a"))
    # E[d9d-handler]: Handler "on_tagged_step" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the
    #   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    bus.subscribe(EVENT_TRAIN_READY, functools.partial(log.on_tagged_step, "a"))
    bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(log.on_tagged_step, "a"))


def several(bus: EventBus, events: Sequence[Event[EventStepContext]]) -> None:
    for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST):
        bus.subscribe(event, on_step)
    for event in events:
        bus.subscribe(event, on_step)
        # E[d9d-handler]: Handler "<lambda>" of event takes no positional argument, but is called with
        #   "EventStepContext": add a parameter for it
        bus.subscribe(event, lambda: None)


def generic(bus: EventBus, event: Event[TContext], handler: Callable[[TContext], None]) -> None:
    bus.subscribe(event, handler)
    # E[d9d-handler]: Handler "on_step" of event takes "EventStepContext", but the event carries "TContext": annotate
    #   "ctx" with "TContext". Did you mean the event EVENT_INFERENCE_STEP_POST, EVENT_TRAIN_STEP_POST or
    #   EVENT_TRAIN_STEP_PRE?
    bus.subscribe(event, on_step)


def unknown(bus: EventBus, event: Event[Any], handler: Any) -> None:
    bus.subscribe(event, handler)
    bus.subscribe(event, on_step)
    bus.subscribe(EVENT_TRAIN_READY, handler)


def told_by_mypy_itself(bus: EventBus) -> None:
    # E[arg-type]: Argument 2 to "subscribe" of "EventBus" has incompatible type "int"; expected
    #   "Callable[[EventReadyContext], None]"
    bus.subscribe(EVENT_TRAIN_READY, 0)
    # E[attr-defined]: "EventBus" has no attribute "missing"
    bus.subscribe(EVENT_TRAIN_READY, bus.missing)


def right(bus: EventBus, context: EventReadyContext) -> None:
    # E[d9d-recursion]: Handler "<lambda>" of EVENT_TRAIN_READY ("train.ready") triggers this event again, without end:
    #   trigger another event, or call what it should do
    bus.subscribe(EVENT_TRAIN_READY, lambda ctx: bus.trigger(EVENT_TRAIN_READY, ctx))
