"""The events of an epoch are triggered in the steps that take its first and its last sample."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from torch.utils.data import IterableDataset

from d9d.core.loop_control import LoopControl
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import train
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EPOCH_FINISHED,
    EVENT_TRAIN_EPOCH_STARTED,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventEpochContext,
)

from .toy_job import Sample, StoppedError, ToyDataset, configure_training, training_config

Seen: TypeAlias = list[tuple[str, int, int]]


def listen(bus: EventBus) -> Seen:
    """Record the kind, the step and the number of each epoch that starts or finishes."""
    seen: Seen = []
    for event in (EVENT_TRAIN_EPOCH_STARTED, EVENT_TRAIN_EPOCH_FINISHED):
        kind = event.id.split(".")[-1]
        bus.subscribe(event, lambda ctx, kind=kind: seen.append((kind, ctx.stepper.current_step, ctx.epoch)))
    return seen


def test_epochs_start_and_finish_where_their_first_and_last_samples_are_taken() -> None:
    """Five samples in steps of four: the second step has the end of the first epoch and the start of the second."""
    trainer = configure_training(training_config(), dataset=ToyDataset(5))
    seen = listen(trainer.event_bus)

    trainer.train()

    assert seen == [
        ("start", 0, 0),
        ("start", 1, 1),
        ("finished", 1, 0),
        ("start", 2, 2),
        ("finished", 2, 1),
    ]


def test_a_step_may_hold_several_epochs() -> None:
    """Two samples in a step of four: each step starts and finishes two epochs, in order."""
    trainer = configure_training(training_config(total_steps=1), dataset=ToyDataset(2))
    seen = listen(trainer.event_bus)

    trainer.train()

    assert seen == [("start", 0, 0), ("start", 0, 1), ("finished", 0, 0), ("finished", 0, 1)]


def test_an_epoch_starts_after_step_pre_and_finishes_between_step_post_and_the_boundary() -> None:
    """The events of an epoch stand next to those of the step, and a report comes after them."""
    trainer = configure_training(training_config(total_steps=2, global_batch_size=2), dataset=ToyDataset(2))
    order: list[str] = []
    for event in (
        EVENT_TRAIN_STEP_PRE,
        EVENT_TRAIN_EPOCH_STARTED,
        EVENT_TRAIN_FORWARD_BACKWARD_PRE,
        EVENT_TRAIN_STEP_POST,
        EVENT_TRAIN_EPOCH_FINISHED,
        train.EVENT_TRAIN_FINISHED,
    ):
        trainer.event_bus.subscribe(event, lambda ctx, name=event.id: order.append(name))

    order.extend("boundary" for _ in trainer.steps())

    one_step = [
        "train.step.pre",
        "train.epoch.start",
        "train.forward_backward.pre",
        "train.step.post",
        "train.epoch.finished",
        "boundary",
    ]
    assert order == [*one_step, *one_step, "train.finished"]


def test_a_resumed_run_finishes_an_epoch_that_it_did_not_start(every_step: CheckpointingConfig) -> None:
    """The epochs of a resumed run are those of the run without an interruption."""
    whole = configure_training(training_config(total_steps=4), dataset=ToyDataset(6))
    expected = listen(whole.event_bus)
    whole.train()

    stopped = configure_training(training_config(every_step, total_steps=4), dataset=ToyDataset(6))
    before = listen(stopped.event_bus)
    for ctx in stopped.steps():
        if ctx.stepper.current_step == 1:
            break
    resumed = configure_training(training_config(every_step, total_steps=4), dataset=ToyDataset(6))
    after = listen(resumed.event_bus)
    resumed.train()

    assert before == [("start", 0, 0)]
    assert after[:2] == [("start", 1, 1), ("finished", 1, 0)]
    assert before + after == expected


def test_iterable_data_has_no_epochs() -> None:
    """A stream has no length, so its passes are not known."""

    class Stream(IterableDataset[Sample]):
        def __iter__(self) -> Iterator[Sample]:
            samples = ToyDataset(4)
            while True:
                yield from (samples[index] for index in range(4))

    trainer = configure_training(training_config(), dataset=Stream())
    seen = listen(trainer.event_bus)

    trainer.train()

    assert seen == []


def test_an_error_names_the_epoch_event_as_the_last_one() -> None:
    """`last_event` of a failure is the event whose handler raised."""
    trainer = configure_training(training_config())
    last: list[str | None] = []

    def fail(ctx: EventEpochContext) -> None:
        assert isinstance(ctx.control, LoopControl)
        raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_EPOCH_STARTED, fail)
    trainer.event_bus.subscribe(train.EVENT_TRAIN_FAILED, lambda ctx: last.append(ctx.last_event))

    with pytest.raises(StoppedError):
        trainer.train()
    assert last == ["train.epoch.start"]


def test_an_epoch_that_nobody_hears_builds_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is built only for a handler."""
    built: list[int] = []

    def build(**fields: Any) -> EventEpochContext:
        built.append(fields["epoch"])
        return EventEpochContext(**fields)

    monkeypatch.setattr("d9d.loop.run.training.EventEpochContext", build)
    unheard = configure_training(training_config())
    unheard.train()
    assert built == []

    heard = configure_training(training_config())
    listen(heard.event_bus)
    heard.train()
    assert built == [0, 0]
