"""The full names of d9d that the plugin recognises in checked code."""

from typing import Final

EVENT_PACKAGES: Final = frozenset({"d9d", "d9d.loop.event"})
"""The packages from which modules import `Event` and `subscribe`."""
CATALOGUE: Final = "d9d.loop.event.catalogue"
EVENT: Final = "d9d.loop.event.bus.Event"
EVENT_BUS: Final = "d9d.loop.event.bus.EventBus"
EVENT_BUS_BOUNDED: Final = "d9d.loop.event.bus.EventBus.bounded"
EVENT_BUS_EMITTER: Final = "d9d.loop.event.bus.EventBus.emitter"
EVENT_BUS_SUBSCRIBE: Final = "d9d.loop.event.bus.EventBus.subscribe"
EVENT_BUS_TRIGGER: Final = "d9d.loop.event.bus.EventBus.trigger"
EMITTER_CALL: Final = "d9d.loop.event.bus.Emitter.call"
SUBSCRIBE: Final = "d9d.loop.event.subscription.subscribe"
SUBSCRIBE_ANNOTATED: Final = "d9d.loop.event.subscription.subscribe_annotated"
SUBSCRIBE_DECORATOR_CALL: Final = "d9d.loop.event.subscription.SubscribeDecorator.__call__"
"""What `@subscribe(event)` calls. mypy has no hook for a decorator that is a function, but one for an object's call."""

BASE_TASK: Final = "d9d.loop.control.task.BaseTask"
TRAIN_TASK: Final = "d9d.loop.control.task.TrainTask"
INFERENCE_TASK: Final = "d9d.loop.control.task.InferenceTask"
MODEL_PROVIDER: Final = "d9d.loop.control.provider.ModelProvider"
REGISTER_TASK_EVENTS_CONTEXT: Final = "d9d.loop.control.task.RegisterTaskEventsContext"
REGISTER_EVENTS: Final = "register_events"
