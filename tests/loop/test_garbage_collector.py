"""Garbage is collected after the same steps on all ranks, and at no other time."""

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import Dataset

from d9d.core.stepper import Stepper
from d9d.loop.config import DataLoadingConfig
from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventStepContext
from d9d.loop.run.loop import GarbageCollector

from .toy_job import (
    NUM_FEATURES,
    Sample,
    StoppedError,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    training_config,
)


class Cycle:
    """An object that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


@contextlib.contextmanager
def after_first_period() -> Iterator[None]:
    """Enter a garbage collector, and complete its first period."""
    stepper = Stepper(1)
    with GarbageCollector(1, stepper) as collector:
        stepper.advance()
        collector.step_done()
        yield


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations of all collections, in order."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


@pytest.fixture(autouse=True)
def _collector_is_restored() -> Iterator[None]:
    """Check that each test leaves the collector as it was."""
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    yield
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
        gc.unfreeze()


def test_garbage_is_collected_after_each_period(collections: list[int]) -> None:
    """There is a collection of young objects before the first step, and a full one after every second step."""
    stepper = Stepper(5)
    collected: list[int] = []
    with GarbageCollector(2, stepper) as collector:
        while not stepper.is_finished:
            stepper.advance()
            collector.step_done()
            collected.append(len(collections))

    assert collected == [1, 2, 2, 3, 3]
    assert collections[: collected[-1]] == [1, 2, 2]


def test_no_garbage_is_collected_within_a_step(collections: list[int]) -> None:
    """A handler may make any number of objects; all of them are gone after the period."""
    trainer = configure_training(training_config(total_steps=4, garbage_collection_period_steps=2))
    cycles: list[weakref.ref[Cycle]] = []
    num_alive: list[int] = []
    num_collections: list[int] = []

    def litter(ctx: EventStepContext) -> None:
        num_alive.append(sum(cycle() is not None for cycle in cycles))
        num_collections.append(len(collections))
        cycles.extend(weakref.ref(Cycle()) for _ in range(5000))

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, litter)
    trainer.train()

    assert num_alive == [0, 5000, 0, 5000]
    assert [number - num_collections[0] for number in num_collections] == [0, 0, 1, 1]


def test_inference_collects_by_the_same_setting(collections: list[int]) -> None:
    """There is a full collection after each of its three steps."""
    run = configure_inference(inference_config(garbage_collection_period_steps=1))
    gc.collect()  # so that none is due before the loop starts
    del collections[:]
    run.infer()

    assert collections.count(2) == 3


def test_later_collections_do_not_visit_what_the_first_one_left() -> None:
    """Torch and the model are hundreds of thousands of objects."""
    num_before = len(gc.get_objects())
    with after_first_period():
        assert len(gc.get_objects()) < num_before / 100


def test_the_collector_is_restored_after_an_exception() -> None:
    """The fixture of this file checks that."""
    trainer = configure_training(training_config())

    def stop(ctx: EventStepContext) -> None:
        assert not gc.isenabled()
        raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, stop)
    with pytest.raises(StoppedError):
        trainer.train()


def test_collection_that_was_off_before_stays_off() -> None:
    """Objects that were frozen before stay frozen; a loop in a handler of another loop needs that."""
    with after_first_period():
        num_frozen = gc.get_freeze_count()
        assert num_frozen > 0
        with after_first_period():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() == num_frozen


def test_without_a_period_automatic_collection_stays_on() -> None:
    """Nothing is switched off or frozen."""
    trainer = configure_training(training_config(garbage_collection_period_steps=None))
    states: list[tuple[bool, int]] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_STEP_POST, lambda ctx: states.append((gc.isenabled(), gc.get_freeze_count()))
    )
    trainer.train()

    assert states == [(True, 0)] * 3


class WatchingDataset(Dataset[Sample]):
    """Samples that say whether automatic collection is on in the process that reads them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        return {"features": torch.ones(NUM_FEATURES), "target": torch.ones(1), "is_on": torch.tensor(gc.isenabled())}


class WatchingTask(ToyTask):
    """Keeps what samples say."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on: list[bool] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.is_on += ctx.batch["is_on"].tolist()
        return super().compute_loss(ctx)


def test_automatic_collection_stays_on_in_workers() -> None:
    """They are started before the loop switches automatic collection off, which a forked process would inherit."""
    task = WatchingTask()
    config = training_config(data_loading=DataLoadingConfig(num_workers=1))
    configure_training(config, task=task, dataset=WatchingDataset()).train()

    assert task.is_on == [True] * 12
