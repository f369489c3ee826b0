"""The second of three modules whose classes derive from each other."""

from chain_base import FirstTask

from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext


class SecondTask(FirstTask):
    """Adds nothing."""


class Log:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
