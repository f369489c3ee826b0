"""For unit tests of handlers: contexts with small real parts, and a bus that records what is triggered.

```python
from d9d.testing import make_context


def test_it_stops_a_diverging_run() -> None:
    ctx = make_context(EVENT_TRAIN_LOSS_READY, loss=torch.tensor(float("nan")))
    StopOnNaN().check(ctx)
    assert ctx.control.stop_reason == "the loss is not finite"
```

Needs pytest, for the fixture `recording_bus`; import it in a test or in `conftest.py`.
"""

import dataclasses
import datetime as dt
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from d9d.core.dist_context import DistributedContext
from d9d.core.loop_control import LoopControl
from d9d.core.report import Report
from d9d.core.stepper import Stepper
from d9d.loop.event.bus import Bounded, Emitter, Event, EventBus, Subscription, TContext

__all__ = ["RecordingBus", "Triggered", "assert_triggered", "make_context", "recording_bus"]


@dataclasses.dataclass(frozen=True)
class Triggered:
    """One event that was triggered on a `RecordingBus`.

    Attributes:
        event: The event.
        context: Its context.
    """

    event: Event[Any]
    context: Any


class RecordingBus(EventBus):
    """An Event Bus that records each event that is triggered on it, before its handlers are called.

    Code under test that triggers an event only if there are handlers finds one: the record.

    Attributes:
        triggered: The events, in the order in which they were triggered.
    """

    __slots__ = ("_records", "triggered")

    def __init__(self, *, is_main_process: bool = True) -> None:
        super().__init__(is_main_process=is_main_process)
        self.triggered: list[Triggered] = []
        self._records: dict[str, Subscription] = {}

    def subscribe(  # noqa: D102 -- inherited
        self,
        event: Event[TContext],
        handler: Callable[[TContext], None],
        *,
        every: int | None = None,
        once: bool = False,
        main_process_only: bool = False,
    ) -> Subscription:
        self._record(event)
        return super().subscribe(event, handler, every=every, once=once, main_process_only=main_process_only)

    def trigger(self, event: Event[TContext], context: TContext) -> None:  # noqa: D102 -- inherited
        self._record(event)
        super().trigger(event, context)

    def bounded(  # noqa: D102 -- inherited
        self, event_pre: Event[TContext], event_post: Event[TContext], context: TContext
    ) -> Bounded[TContext]:
        self._record(event_pre)
        self._record(event_post)
        return super().bounded(event_pre, event_post, context)

    def emitter(self, event: Event[TContext]) -> Emitter[TContext]:  # noqa: D102 -- inherited
        self._record(event)
        return super().emitter(event)

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions but the record's own."""
        return [each for each in super().subscriptions if each is not self._records.get(each.event.id)]

    def contexts(self, event: Event[TContext]) -> list[TContext]:
        """Return the contexts with which an event was triggered, in their order.

        Args:
            event: The event.
        """
        return [each.context for each in self.triggered if each.event == event]

    def _record(self, event: Event[Any]) -> None:
        """Record an event from now on, ahead of all handlers."""
        if event.id not in self._records:
            self._records[event.id] = super().subscribe(
                event, lambda context: self.triggered.append(Triggered(event, context))
            )


def assert_triggered(
    bus: RecordingBus, event: Event[TContext], *, times: int | None = None, **fields: Any
) -> list[TContext]:
    """Assert that an event was triggered.

    Args:
        bus: The bus.
        event: The event.
        times: How often; at least once by default, and 0 for never.
        **fields: Values that the fields of the context must have for a trigger to count.

    Returns:
        The contexts of the triggers that count, in their order.

    Raises:
        AssertionError: If it was not triggered so, with a list of what was triggered.
    """
    found = [
        context
        for context in bus.contexts(event)
        if all(_is_equal(getattr(context, name), value) for name, value in fields.items())
    ]
    if len(found) == times or (times is None and found):
        return found
    wanted = "at least once" if times is None else _times(times)
    given = "".join(f", {name}={value!r}" for name, value in fields.items())
    seen = "".join(f"\n- {each.event.id}: {each.context!r}" for each in bus.triggered) or " nothing"
    raise AssertionError(
        f"event {event.id!r}{given} was triggered {_times(len(found))}, and should be {wanted}. Triggered:{seen}"
    )


def _times(number: int) -> str:
    return "1 time" if number == 1 else f"{number} times"


def _is_equal(actual: object, expected: object) -> bool:
    if isinstance(actual, torch.Tensor) or isinstance(expected, torch.Tensor):
        return bool(torch.equal(torch.as_tensor(actual), torch.as_tensor(expected)))
    return bool(actual == expected)


def make_context(event: Event[TContext], **fields: Any) -> TContext:
    """Make a context of an event, with small real parts on the CPU.

    It is in the first of 10 steps, with a fresh `LoopControl`, a linear layer as the model, SGD as its optimizer, and a
    loss of 1. `skip_update` does nothing.

    Args:
        event: An event of d9d, or another one of a catalogue whose fields have the same names, or are all given.
        **fields: Values of fields, in place of the ready-made ones.

    Returns:
        The context, of the event's own class.

    Raises:
        TypeError: If the event does not know its context, the context is no dataclass, a field is not one of its, or it
            has one that is not ready-made.
    """
    kind = _class_of_context(event)
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    unknown = [name for name in fields if name not in names]
    if unknown:
        raise TypeError(f"{kind.__qualname__} has no field {unknown[0]!r}: it has {', '.join(names) or 'none'}")
    parts = _Parts()
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name in fields or has_default:
            continue
        if field.name not in _READY_MADE:
            raise TypeError(
                f"the field {field.name!r} of {kind.__qualname__} is not ready-made: pass it, as in "
                f"make_context({event.id!r}, {field.name}=...)"
            )
        fields[field.name] = _READY_MADE[field.name](parts)
    context: TContext = kind(**fields)
    return context


def _class_of_context(event: Event[Any]) -> type[Any]:
    module, _, name = (event.context_name or "").rpartition(".")
    kind = getattr(importlib.import_module(module), name, None) if module else None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise TypeError(
            f"the context of event {event.id!r} is not known as a dataclass of a module, but as {event.context_name}: "
            "make it yourself"
        )
    return kind


class _Parts:
    """The parts that several fields of one context share."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


def _ignore(condition: torch.Tensor) -> None:
    """Do nothing with a request."""


_READY_MADE: Final[Mapping[str, Callable[[_Parts], Any]]] = {
    "batch": lambda _: {"input": torch.zeros(4, 2)},
    "control": lambda _: LoopControl(),
    "data_loader": lambda _: DataLoader([{"input": torch.zeros(2)}] * 4, batch_size=4),  # type: ignore[arg-type]
    "dist_context": lambda _: DistributedContext(device=torch.device("cpu")),
    "epoch": lambda _: 0,
    "error": lambda _: RuntimeError("an error of a test"),
    "last_event": lambda _: None,
    "loss": lambda _: torch.tensor(1.0),
    "loss_weight": lambda _: 1.0,
    "lr_scheduler": lambda parts: torch.optim.lr_scheduler.ConstantLR(parts.optimizer),
    "metrics": lambda _: {"loss": 1.0},
    "micro_batch_index": lambda _: 0,
    "modules": lambda parts: [parts.model],
    "name": lambda _: "validation",
    "norm": lambda _: torch.tensor(1.0),
    "optimizer": lambda parts: parts.optimizer,
    "outcome": lambda _: "finished",
    "outputs": lambda _: torch.zeros(4, 1),
    "path": lambda _: Path("checkpoints/step-1"),
    "reason": lambda _: "all steps are done",
    "report": lambda _: Report(step=1, time=dt.datetime.now(dt.UTC), metrics={"loss": 1.0}),
    "resumed_from": lambda _: None,
    "samples": lambda _: range(4),
    "settings": lambda _: {},
    "skip_update": lambda _: _ignore,
    "step": lambda _: 1,
    "stepper": lambda _: Stepper(total_steps=10),
    "tags": lambda _: frozenset({"parameters", "gradients", "optimizer", "buffers"}),
}
"""What makes the value of a field, by its name."""


@pytest.fixture
def recording_bus() -> RecordingBus:
    """Provide a bus that records what is triggered on it."""
    return RecordingBus()
