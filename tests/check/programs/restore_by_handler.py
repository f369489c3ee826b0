"""Handlers that have the name of the method that they call."""

from d9d import TrainTask, subscribe
from d9d.loop.control import RegisterTaskEventsContext
from d9d.loop.event import subscribe_annotated
from d9d.loop.event.catalogue.common import EventCheckpointContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CHECKPOINT_STARTED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
)


class Adapter:
    def merge(self) -> None: ...

    def unmerge(self) -> None: ...


class Router:
    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Registering(TrainTask):
    adapters: list[Adapter]
    router: Router

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongMerged(Registering):
    @subscribe(EVENT_TRAIN_CHECKPOINT_STARTED)
    def merge(self, ctx: EventCheckpointContext) -> None:
        for adapter in self.adapters:
            # E[d9d-restore]: Handler "merge" of EVENT_TRAIN_CHECKPOINT_STARTED ("train.checkpoint.start") calls
            #   "merge", and nothing calls "unmerge", so the training goes on with what it has changed: change it back
            #   in a handler of EVENT_TRAIN_CHECKPOINT_SAVED
            adapter.merge()

    @subscribe(EVENT_TRAIN_CHECKPOINT_SAVED)
    def report(self, ctx: EventCheckpointContext) -> None:
        print(ctx.path)


class RightResumed(Registering):
    @subscribe(EVENT_TRAIN_EVALUATION_STARTED)
    def pause(self, ctx: EventEvaluationStartedContext) -> None:
        self.router.pause()

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED)
    def resume(self, ctx: EventEvaluationFinishedContext) -> None:
        self.router.resume()
