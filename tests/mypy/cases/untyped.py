"""Handlers whose context has no annotation."""

from typing import Any

from moments.train import EVENT_TRAIN_READY, EventReadyContext

from d9d.loop.event import EventBus, subscribe


# docs: d9d-untyped-handler
class Task:
    # E[d9d-untyped-handler]: Handler "wrong" of EVENT_TRAIN_READY ("train.ready") has no annotation for its context, so
    #   what it does with the context is not checked: annotate "ctx" with "EventReadyContext"
    @subscribe(EVENT_TRAIN_READY)
    def wrong(self, ctx): ...

    @subscribe(EVENT_TRAIN_READY)
    def right(self, ctx: EventReadyContext) -> None: ...

    # docs: end

    # E[d9d-untyped-handler]: Handler "wrong_but_for_the_result" of EVENT_TRAIN_READY ("train.ready") has no annotation
    #   for its context, so what it does with the context is not checked: annotate "ctx" with "EventReadyContext"
    @subscribe(EVENT_TRAIN_READY)
    def wrong_but_for_the_result(self, ctx) -> None: ...

    # E[d9d-untyped-handler]: Handler "wrong_star" of EVENT_TRAIN_READY ("train.ready") has no annotation for its
    #   context, so what it does with the context is not checked: annotate "args" with "EventReadyContext"
    @subscribe(EVENT_TRAIN_READY)
    def wrong_star(self, *args) -> None: ...

    @classmethod
    # E[d9d-untyped-handler]: Handler "wrong_of_class" of EVENT_TRAIN_READY ("train.ready") has no annotation for its
    #   context, so what it does with the context is not checked: annotate "ctx" with "EventReadyContext"
    @subscribe(EVENT_TRAIN_READY)
    def wrong_of_class(cls, ctx): ...

    @subscribe(EVENT_TRAIN_READY)
    def right_but_for_the_result(self, ctx: EventReadyContext): ...

    @subscribe(EVENT_TRAIN_READY)
    def right_and_deliberately_any(self, ctx: Any) -> None: ...

    def not_decorated(self, ctx): ...

    def register(self, bus: EventBus) -> None:
        # E[d9d-untyped-handler]: Handler "not_decorated" of EVENT_TRAIN_READY ("train.ready") has no annotation for its
        #   context, so what it does with the context is not checked: annotate "ctx" with "EventReadyContext"
        bus.subscribe(EVENT_TRAIN_READY, self.not_decorated)
        bus.subscribe(EVENT_TRAIN_READY, self.right_but_for_the_result)


# E[d9d-untyped-handler]: Handler "wrong_function" of EVENT_TRAIN_READY ("train.ready") has no annotation for its
#   context, so what it does with the context is not checked: annotate "ctx" with "EventReadyContext"
@subscribe(EVENT_TRAIN_READY)
def wrong_function(ctx): ...


@subscribe(EVENT_TRAIN_READY)
def right_function(ctx: EventReadyContext) -> None: ...
