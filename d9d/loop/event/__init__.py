"""The typed Event Bus through which user code extends the training and the inference loop."""

from d9d.loop.event.bus import Event, EventBus, Subscription, TContext
from d9d.loop.event.subscription import subscribe, subscribe_annotated

__all__ = ["Event", "EventBus", "Subscription", "TContext", "subscribe", "subscribe_annotated"]
