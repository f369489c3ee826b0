"""`d9d.testing`: contexts for unit tests, and a bus that records."""

import dataclasses
from types import ModuleType
from typing import Any

import pytest
import torch
from declared import events_of
from torch import nn

from d9d.core.loop_control import LoopControl
from d9d.core.stepper import Stepper
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue import inference, train
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventTrainReadyContext,
)
from d9d.testing import RecordingBus, assert_triggered, make_context
from d9d.testing import recording_bus as recording_bus  # noqa: PLC0414 -- a fixture


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkContext:
    index: int
    stepper: Stepper
    label: str = "default"


EVENT_CHUNK = Event[ChunkContext](id="user.chunk")
EVENT_OTHER = Event[ChunkContext](id="user.other")


def chunk(index: int) -> ChunkContext:
    return make_context(EVENT_CHUNK, index=index)


@pytest.mark.parametrize("module", [train, inference], ids=["train", "inference"])
def test_there_is_a_ready_made_context_of_each_event(module: ModuleType) -> None:
    """Of the event's own class, with a value for each field."""
    for event in events_of(module):
        context = make_context(event)

        assert f"{type(context).__module__}.{type(context).__qualname__}" == event.context_name


def test_ready_made_parts_are_real_and_belong_together() -> None:
    """A handler can use them as in a run."""
    ctx = make_context(EVENT_TRAIN_GRADIENTS_READY)
    ctx.skip_update(ctx.norm > 10)
    ctx.control.stop("enough")

    assert isinstance(ctx.modules[0], nn.Linear)
    assert ctx.control.stop_reason == "enough"
    assert ctx.stepper.total_steps == 10
    assert make_context(EVENT_TRAIN_GRADIENTS_READY).control.stop_reason is None


def test_fields_can_be_given() -> None:
    """In place of those that are ready-made, and for those that are not."""
    control = LoopControl()

    assert make_context(EVENT_TRAIN_LOSS_READY, control=control, micro_batch_index=3).control is control
    assert (chunk(2).index, chunk(2).stepper.total_steps, chunk(2).label) == (2, 10, "default")


def test_a_context_that_cannot_be_made_is_refused() -> None:
    """The error says what to do."""
    undeclared: Event[ChunkContext] = Event(id="user.undeclared")

    with pytest.raises(TypeError, match=r"EventStepContext has no field 'step': it has stepper, control"):
        make_context(EVENT_TRAIN_STEP_POST, step=3)
    with pytest.raises(TypeError, match=r"'index' of ChunkContext is not ready-made: pass it, as in .*index=\.\.\.\)"):
        make_context(EVENT_CHUNK)
    with pytest.raises(TypeError, match=r"event 'user\.undeclared' is not known .* but as None: make it yourself"):
        make_context(undeclared)


def test_a_bus_records_each_way_to_trigger_before_the_handlers(recording_bus: RecordingBus) -> None:
    """In one order, whether there are handlers or not."""
    seen: list[int] = []
    recording_bus.subscribe(EVENT_CHUNK, lambda _: seen.append(len(recording_bus.triggered)))
    other = recording_bus.emitter(EVENT_OTHER)

    recording_bus.trigger(EVENT_CHUNK, chunk(0))
    if other.handlers:
        other.call(chunk(1))
    with recording_bus.bounded(EVENT_CHUNK, EVENT_OTHER, chunk(2)):
        pass
    recording_bus.emitter(EVENT_CHUNK).call(chunk(3))

    assert [(each.event, each.context.index) for each in recording_bus.triggered] == [
        *((EVENT_CHUNK, 0), (EVENT_OTHER, 1), (EVENT_CHUNK, 2), (EVENT_OTHER, 2), (EVENT_CHUNK, 3)),
    ]
    assert seen == [1, 3, 5]


def test_a_recording_bus_works_like_any_other(recording_bus: RecordingBus) -> None:
    """Filters, handles and descriptions are those of `EventBus`; the record is not a subscriber."""
    seen: list[str] = []

    class Listener:
        @subscribe(EVENT_TRAIN_STEP_PRE, every=2, once=True)
        def note(self, ctx: EventStepContext) -> None:
            seen.append(f"step {ctx.stepper.current_step}")

        @subscribe(EVENT_TRAIN_READY)
        def begin(self, ctx: EventTrainReadyContext) -> None:
            seen.append("ready")

    bus: EventBus = recording_bus
    listener, stepper = Listener(), Stepper(4)
    subscribe_annotated(bus, listener)
    ended = bus.subscribe(EVENT_TRAIN_READY, lambda _: seen.append("never"))
    ended.unsubscribe()
    bus.trigger(EVENT_TRAIN_READY, make_context(EVENT_TRAIN_READY))
    assert [(each.event_id, each.position) for each in bus.describe()] == [
        ("train.step.pre", 1),
        ("train.ready", 1),
    ]
    while not stepper.is_finished:
        bus.trigger(EVENT_TRAIN_STEP_PRE, make_context(EVENT_TRAIN_STEP_PRE, stepper=stepper))
        stepper.advance()

    assert seen == ["ready", "step 1"]
    assert bus.subscribers == [listener]
    assert_triggered(recording_bus, EVENT_TRAIN_STEP_PRE, times=4)


def test_triggers_are_found_by_event_and_fields(recording_bus: RecordingBus) -> None:
    """Their contexts are returned."""
    for index in (1, 2, 2):
        recording_bus.trigger(EVENT_CHUNK, chunk(index))
    loss = torch.tensor([1.0, 2.0])
    recording_bus.trigger(EVENT_TRAIN_LOSS_READY, make_context(EVENT_TRAIN_LOSS_READY, loss=loss))

    assert [ctx.index for ctx in assert_triggered(recording_bus, EVENT_CHUNK)] == [1, 2, 2]
    assert len(assert_triggered(recording_bus, EVENT_CHUNK, times=2, index=2, label="default")) == 2
    assert_triggered(recording_bus, EVENT_OTHER, times=0)
    assert_triggered(recording_bus, EVENT_TRAIN_LOSS_READY, loss=loss.clone())


def found(bus: RecordingBus, **wanted: Any) -> str:
    """Return the message of a failed assertion."""
    with pytest.raises(AssertionError) as caught:
        assert_triggered(bus, EVENT_CHUNK, **wanted)
    return str(caught.value)


def test_a_failed_assertion_lists_what_was_triggered(recording_bus: RecordingBus) -> None:
    """With the contexts."""
    assert found(recording_bus).endswith("was triggered 0 times, and should be at least once. Triggered: nothing")
    recording_bus.trigger(EVENT_CHUNK, chunk(7))

    message = found(recording_bus, times=2, index=7)

    assert message.startswith("event 'user.chunk', index=7 was triggered 1 time, and should be 2 times. Triggered:\n")
    assert "- user.chunk: ChunkContext(index=7, " in message
    assert "0 times" in found(recording_bus, index=8)
    assert "1 time, and should be 0 times" in found(recording_bus, times=0)
