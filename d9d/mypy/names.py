"""The full names that the plugin recognises in checked code."""

from typing import Final

EVENT_PACKAGE: Final = "d9d.loop.event"
EVENT: Final = "d9d.loop.event.bus.Event"
EVENT_BUS_BOUNDED: Final = "d9d.loop.event.bus.EventBus.bounded"
EVENT_BUS_EMITTER: Final = "d9d.loop.event.bus.EventBus.emitter"
EVENT_BUS_SUBSCRIBE: Final = "d9d.loop.event.bus.EventBus.subscribe"
EVENT_BUS_TRIGGER: Final = "d9d.loop.event.bus.EventBus.trigger"
CATALOGUE: Final = "d9d.loop.event.catalogue"
SUBSCRIBE: Final = "d9d.loop.event.subscription.subscribe"
SUBSCRIPTION_CALL: Final = "d9d.loop.event.subscription.Subscription.__call__"
"""What `@subscribe(event)` calls: mypy has no hook for a decorator that is a function, but one for an object's call."""

BASE_TASK: Final = "d9d.loop.control.task.BaseTask"
TRAIN_TASK: Final = "d9d.loop.control.task.TrainTask"
INFERENCE_TASK: Final = "d9d.loop.control.task.InferenceTask"
MODEL_PROVIDER: Final = "d9d.loop.control.provider.ModelProvider"
REGISTER_TASK_EVENTS_CONTEXT: Final = "d9d.loop.control.task.RegisterTaskEventsContext"
REGISTER_EVENTS: Final = "register_events"

HARMLESS_DECORATORS: Final = frozenset(
    {
        "abc.abstractmethod",
        "builtins.classmethod",
        "builtins.property",
        "builtins.staticmethod",
        "dataclasses.dataclass",
        "functools.cached_property",
        "torch.autograd.grad_mode.inference_mode",
        "torch.autograd.grad_mode.no_grad",
        "typing.final",
        "typing.overload",
        "typing.override",
        "typing.runtime_checkable",
        "typing_extensions.final",
        "typing_extensions.override",
    }
)
"""Decorators that call what they decorate, if anything, and neither register it nor replace it by what would."""

PARTIAL: Final = "functools.partial"
PARTIAL_SIGNATURE: Final = "__mypy_partial"
"""Where mypy keeps what is left of the signature in a `functools.partial`; its `__call__` itself takes anything."""

ASYNCHRONOUS: Final = frozenset(
    {"typing.Awaitable", "typing.Coroutine", "typing.AsyncGenerator", "typing.AsyncIterator"}
)
GENERATORS: Final = frozenset({"typing.Generator", "typing.Iterator", "typing.Iterable"})
