"""An inference with a bus, and a base class of tasks that run it, for the cases of other buses."""

from d9d.loop.event import EventBus, subscribe_annotated


class Evaluation:
    def __init__(self) -> None:
        self.event_bus = EventBus()


class Evaluations:
    def run(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)
