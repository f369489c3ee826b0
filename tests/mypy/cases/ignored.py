"""A comment on the line of the decorator or the call ignores the error, with its code or the broader one."""

from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_READY

from d9d.loop.event import EventBus, subscribe


class Task:
    @subscribe(EVENT_TRAIN_READY)  # type: ignore[d9d-handler]
    def by_code(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)  # type: ignore[arg-type]
    def by_parent(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_READY)  # type: ignore[d9d-untyped-handler]
    def untyped_by_code(self, ctx): ...

    @subscribe(EVENT_TRAIN_READY)  # type: ignore[no-untyped-def]
    def untyped_by_parent(self, ctx): ...

    @subscribe(
        EVENT_TRAIN_READY,
    )  # type: ignore[d9d-handler]
    def on_three_lines(self, ctx: EventStepContext) -> None: ...

    def register(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_READY, lambda: None)  # type: ignore[d9d-handler]
        bus.subscribe(EVENT_TRAIN_READY, lambda: None)  # type: ignore[arg-type]
