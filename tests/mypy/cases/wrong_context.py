"""Handlers that take another context than their event carries."""

from typing import TypeVar

from moments import inference, train
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventReadyContext
from moments.train import EVENT_TRAIN_READY as READY

from d9d.loop.event import subscribe

TStep = TypeVar("TStep", bound=EventStepContext)


# docs: d9d-handler
class Task:
    # E[d9d-handler]: Handler "wrong" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    def wrong(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    def right(self, ctx: EventReadyContext) -> None: ...

    # docs: end

    # E[d9d-handler]: Handler "wrong_through_module" of EVENT_TRAIN_STEP_POST ("train.step.post") takes
    #   "EventReadyContext", but the event carries "EventStepContext": annotate "ctx" with "EventStepContext". Did you
    #   mean the event EVENT_TRAIN_READY?
    @subscribe(train.EVENT_TRAIN_STEP_POST)
    def wrong_through_module(self, ctx: EventReadyContext) -> None: ...

    @subscribe(train.EVENT_TRAIN_STEP_POST)
    def right_through_module(self, ctx: EventStepContext) -> None: ...

    # E[d9d-handler]: Handler "wrong_renamed" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the
    #   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(READY)
    def wrong_renamed(self, ctx: EventStepContext) -> None: ...

    # E[d9d-handler]: Handler "wrong_of_another_module" of EVENT_INFERENCE_STEP_POST ("inference.step.post") takes
    #   "int", but the event carries "EventStepContext": annotate "ctx" with "EventStepContext"
    @subscribe(inference.EVENT_INFERENCE_STEP_POST)
    def wrong_of_another_module(self, ctx: int) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    # E[d9d-handler]: Handler "wrong_for_one_of_two" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but
    #   the event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    def wrong_for_one_of_two(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe(EVENT_TRAIN_READY)
    def right_for_both(self, ctx: EventStepContext | EventReadyContext) -> None: ...

    # E[d9d-handler]: Handler "wrong_static" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the
    #   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    @staticmethod
    def wrong_static(ctx: EventStepContext) -> None: ...

    @staticmethod
    # E[d9d-handler]: Handler "wrong_static_on_top" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but
    #   the event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    def wrong_static_on_top(ctx: EventStepContext) -> None: ...

    @staticmethod
    @subscribe(EVENT_TRAIN_READY)
    def right_static(ctx: EventReadyContext) -> None: ...

    @classmethod
    # E[d9d-handler]: Handler "wrong_of_class" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the
    #   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    def wrong_of_class(cls, ctx: EventStepContext) -> None: ...

    @classmethod
    @subscribe(EVENT_TRAIN_READY)
    def right_of_class(cls, ctx: EventReadyContext) -> None: ...

    # E[d9d-handler]: Handler "wrong_star" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
    #   carries "EventReadyContext": annotate "contexts" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    def wrong_star(self, *contexts: EventStepContext) -> None: ...


# E[d9d-handler]: Handler "wrong_function" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
#   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event EVENT_TRAIN_STEP_PRE,
#   EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
@subscribe(EVENT_TRAIN_READY)
def wrong_function(ctx: EventStepContext) -> None: ...


@subscribe(EVENT_TRAIN_READY)
def right_function(ctx: EventReadyContext) -> None: ...


# E[d9d-handler]: Handler "wrong_bound" of EVENT_TRAIN_READY ("train.ready") takes "TStep", but the event carries
#   "EventReadyContext": annotate "ctx" with "EventReadyContext"
@subscribe(EVENT_TRAIN_READY)
def wrong_bound(ctx: TStep) -> None: ...


@subscribe(EVENT_TRAIN_STEP_POST)
def right_bound(ctx: TStep) -> None: ...


def inside() -> None:
    # E[d9d-handler]: Handler "wrong_nested" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the
    #   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event
    #   EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
    @subscribe(EVENT_TRAIN_READY)
    def wrong_nested(ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)
    def right_nested(ctx: EventReadyContext) -> None: ...


def wrong_called(ctx: EventStepContext) -> None: ...


# E[d9d-handler]: Handler "wrong_called" of EVENT_TRAIN_READY ("train.ready") takes "EventStepContext", but the event
#   carries "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event EVENT_TRAIN_STEP_PRE,
#   EVENT_TRAIN_STEP_POST or EVENT_INFERENCE_STEP_POST?
subscribe(EVENT_TRAIN_READY)(wrong_called)
subscribe(EVENT_TRAIN_STEP_POST)(wrong_called)

on_ready = subscribe(EVENT_TRAIN_READY)


# E[d9d-handler]: Handler "wrong_for_an_event_without_name" of an event takes "EventStepContext", but the event carries
#   "EventReadyContext": annotate "ctx" with "EventReadyContext". Did you mean the event EVENT_INFERENCE_STEP_POST,
#   EVENT_TRAIN_STEP_POST or EVENT_TRAIN_STEP_PRE?
@on_ready
def wrong_for_an_event_without_name(ctx: EventStepContext) -> None: ...
