"""An inference with a bus, and a base class of tasks that run it, for the cases of other buses."""

from d9d.loop.event import EventBus, subscribe_annotated
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST, EventStepContext


class Evaluation:
    def __init__(self) -> None:
        self.event_bus = EventBus()

    def run(self, ctx: EventStepContext) -> None:
        self.event_bus.trigger(EVENT_INFERENCE_STEP_POST, ctx)


class Evaluations:
    def run(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)
