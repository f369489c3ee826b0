"""Base classes with private handlers, for the cases of private names."""

from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext


class Timer:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def __on_step(self, ctx: EventStepContext) -> None: ...


class OneName:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def __on_step(self, ctx: EventStepContext) -> None: ...
