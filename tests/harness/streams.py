"""Stands in for an accelerator with streams on a machine without one: computes on the CPU, and records what is queued.

What a device would do later is done at once, so results are right; the record shows who waits for whom.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest import mock

import torch


@dataclasses.dataclass
class Recorded:
    """What was asked of the device.

    Attributes:
        calls: Each call, as `STREAM.METHOD` or `event.METHOD`.
        streams: The names of the streams that were made.
        pinned_bytes: The size of each block of pinned memory, in the order of allocation.
    """

    calls: list[str] = dataclasses.field(default_factory=list)
    streams: list[str] = dataclasses.field(default_factory=list)
    pinned_bytes: list[int] = dataclasses.field(default_factory=list)


class RecordedStream:
    """A stream that records its calls."""

    def __init__(self, recorded: Recorded, name: str) -> None:
        self._recorded, self.name = recorded, name

    def __enter__(self) -> Self:
        self._recorded.calls.append(f"{self.name}.enter")
        return self

    def __exit__(self, *_error: object) -> None:
        self._recorded.calls.append(f"{self.name}.exit")

    def wait_stream(self, other: "RecordedStream") -> None:
        self._recorded.calls.append(f"{self.name}.wait_stream({other.name})")

    def wait_event(self, _event: object) -> None:
        self._recorded.calls.append(f"{self.name}.wait_event")

    def record_event(self, event: "RecordedEvent | None" = None) -> "RecordedEvent":
        event = event or RecordedEvent(self._recorded)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self._recorded.calls.append(f"{self.name}.synchronize")


class RecordedEvent:
    """An event that records its calls; what it waits for is always complete."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def record(self, stream: RecordedStream | None = None) -> None:
        self._recorded.calls.append(f"{'current' if stream is None else stream.name}.record_event")

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._recorded.calls.append("event.synchronize")


@contextmanager
def recorded_streams(*modules: Any) -> Iterator[Recorded]:
    """Let modules take the CPU for a device with streams.

    Args:
        modules: Those of the modules under test that import `has_streams`.
    """
    recorded = Recorded()
    computing = RecordedStream(recorded, "computing")

    def make_stream(*_args: Any, **_kwargs: Any) -> RecordedStream:
        recorded.streams.append(f"stream{len(recorded.streams)}")
        return RecordedStream(recorded, recorded.streams[-1])

    def make_event(*_args: Any, **_kwargs: Any) -> RecordedEvent:
        return RecordedEvent(recorded)

    empty = torch.empty

    def empty_unpinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        if pin_memory:
            recorded.pinned_bytes.append(tensor.nbytes)
        return tensor

    with (
        mock.patch.object(torch, "Stream", make_stream),
        mock.patch.object(torch, "Event", make_event),
        mock.patch.object(torch.accelerator, "current_stream", return_value=computing),
        mock.patch.object(torch, "empty", empty_unpinned),
    ):
        patches = [mock.patch.object(module, "has_streams", return_value=True) for module in modules]
        for patch in patches:
            patch.start()
        try:
            yield recorded
        finally:
            for patch in patches:
                patch.stop()
