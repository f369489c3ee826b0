"""An iterable dataset is trained on, and a resumed run continues at its position, bit for bit."""

import functools
import itertools
import random
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.config import CheckpointingConfig, ConfigurationError, DataLoadingConfig
from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext
from d9d.loop.run import Trainer

from .toy_job import (
    NUM_FEATURES,
    Sample,
    StoppedError,
    ToyTask,
    configure_training,
    same_tensors,
    training_config,
    weights_of,
)

NUM_STEPS = 6


def sample_at(index: int) -> Sample:
    """Make a sample with noise from torch and from Python, different each time it is read."""
    features = torch.randn(NUM_FEATURES) + random.gauss() + index
    return {"features": features, "target": torch.ones(1), "index": torch.tensor(index)}


class Row(IterableDataset[Sample]):
    """The numbers from 0, divided among workers; each iterator starts at the position of the dataset.

    Args:
        num_samples: How many samples there are.
    """

    def __init__(self, num_samples: int = 1000) -> None:
        self.num_samples = num_samples
        self.num_read = 0
        self.indices_read: list[int] = []

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(start + self.num_read * step, self.num_samples, step):
            self.num_read += 1
            self.indices_read.append(index)
            yield sample_at(index)

    def state_dict(self) -> dict[str, Any]:
        # The list itself, which keeps changing.
        return {"num_read": self.num_read, "indices_read": self.indices_read}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_read, self.indices_read = state_dict["num_read"], list(state_dict["indices_read"])
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        assert self.indices_read == list(range(start, start + self.num_read * step, step))


class Tape(IterableDataset[Sample]):
    """The numbers from 0, for one worker; it is its own iterator, and `__iter__` starts over."""

    def __iter__(self) -> Iterator[Sample]:
        self.index = 0
        return self

    def __next__(self) -> Sample:
        self.index += 1
        return sample_at(self.index - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"index": getattr(self, "index", 0)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.index = state_dict["index"]


class Stateless(IterableDataset[Sample]):
    """The numbers from 0, without a state."""

    def __iter__(self) -> Iterator[Sample]:
        yield from (sample_at(index) for index in range(1000))


class NotingTask(ToyTask):
    """Notes which samples each micro-batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[list[int]] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.noted.append(ctx.batch["index"].tolist())
        return super().compute_loss(ctx)


def configured(
    dataset: IterableDataset[Sample],
    checkpointing: CheckpointingConfig | None = None,
    num_workers: int = 0,
    task: ToyTask | None = None,
) -> Trainer:
    loading = DataLoadingConfig(num_workers=num_workers)
    config = training_config(checkpointing, total_steps=NUM_STEPS, data_loading=loading)
    return configure_training(config, dataset=dataset, task=task)


def stop_after(trainer: Trainer, step: int) -> None:
    """Train until a handler at the end of a step raises."""

    def stop(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == step:
            raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, stop)
    with pytest.raises(StoppedError):
        trainer.train()


Kind: TypeAlias = type[Row | Tape]


@functools.cache
def weights_without_interruption(kind: Kind, num_workers: int) -> dict[str, torch.Tensor]:
    """Train to the end in one run."""
    trainer = configured(kind(), num_workers=num_workers)
    trainer.train()
    return weights_of(trainer.modules[0])


@pytest.mark.parametrize(
    ("num_workers", "expected"),
    [(0, [[0, 1], [2, 3], [4, 5], [6, 7]]), (2, [[0, 2], [1, 3], [4, 6], [5, 7]])],
)
def test_micro_batches_come_as_the_dataset_yields_them(num_workers: int, expected: list[list[int]]) -> None:
    """Several workers take turns."""
    task = NotingTask()
    configured(Row(), num_workers=num_workers, task=task).train()

    assert task.noted[:4] == expected
    assert len(task.noted) == NUM_STEPS * 2


ALWAYS_RUN = [(Row, 0, 0), (Tape, 0, 4), (Tape, 1, 1)]


@pytest.mark.parametrize(
    ("kind", "num_workers", "stopped_in"),
    [
        pytest.param(*case, marks=[] if case in ALWAYS_RUN else pytest.mark.slow)
        for case in itertools.product([Row, Tape], [0, 1, 2], [0, 1, 4])
        if case[:2] not in [(Row, 1), (Tape, 2)]
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    kind: Kind, num_workers: int, stopped_in: int, every_step: CheckpointingConfig
) -> None:
    """With the same samples and the same noise, whether the dataset makes iterators or is one."""
    stop_after(configured(kind(), every_step, num_workers), stopped_in)
    task = NotingTask()
    resumed = configured(kind(), every_step, num_workers, task)
    resumed.train()

    assert len(task.noted) == (NUM_STEPS - stopped_in) * 2
    assert same_tensors(weights_of(resumed.modules[0]), weights_without_interruption(kind, num_workers))


def test_a_run_that_is_resumed_twice_ends_like_an_uninterrupted_one(every_step: CheckpointingConfig) -> None:
    """The position that was loaded is saved again."""
    stop_after(configured(Row(), every_step, 2), 1)
    stop_after(configured(Row(), every_step, 2), 2)
    resumed = configured(Row(), every_step, 2)
    resumed.train()

    assert same_tensors(weights_of(resumed.modules[0]), weights_without_interruption(Row, 2))


def test_configuration_reads_no_sample(every_step: CheckpointingConfig) -> None:
    """The dataset is first iterated when the loop begins."""

    class Untouched(Row):
        def __iter__(self) -> Iterator[Sample]:
            raise StoppedError

    trainer = configured(Untouched(), every_step)
    with pytest.raises(StoppedError):
        trainer.train()


@pytest.mark.parametrize(("num_samples", "num_steps", "num_workers"), [(8, 2, 0), (11, 2, 1), (3, 0, 0)])
def test_data_that_ends_too_early_is_an_error_with_both_numbers(
    num_samples: int, num_steps: int, num_workers: int
) -> None:
    """The remaining samples do not fill a step of two micro-batches of two samples."""
    expected = (
        f"the data ended after {num_steps} of total_steps={NUM_STEPS} steps, .*set total_steps to at most {num_steps}"
    )
    with pytest.raises(RuntimeError, match=expected):
        configured(Row(num_samples), num_workers=num_workers).train()


def test_data_may_end_with_the_last_step() -> None:
    """No further sample is requested."""
    configured(Row(NUM_STEPS * 4)).train()


def test_a_dataset_without_state_can_be_trained_on() -> None:
    """Without checkpoints nothing has to be resumed."""
    configured(Stateless()).train()


def test_a_dataset_without_state_is_refused_with_checkpoints(every_step: CheckpointingConfig) -> None:
    """A resumed run would start over at the first sample."""
    with pytest.raises(
        ConfigurationError,
        match=r"Stateless, is iterable and has no state, .*define state_dict and load_state_dict on it",
    ):
        configured(Stateless(), every_step)


def test_another_number_of_workers_is_refused_on_resuming(every_step: CheckpointingConfig) -> None:
    """Each worker has its own position."""
    stop_after(configured(Row(), every_step), 1)
    with pytest.raises(CheckpointError, match=r"data_loading.num_workers is 2 here and 0 in the checkpoint"):
        configured(Row(), every_step, 2).train()


def test_without_torchdata_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It also names a way to do without."""
    monkeypatch.delitem(sys.modules, "d9d.loop.component.iterable_data", raising=False)
    monkeypatch.setitem(sys.modules, "torchdata", None)
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", None)
    with pytest.raises(
        ConfigurationError, match=r"Row, is iterable, .*run `pip install 'd9d-hooks\[torchdata\]'`, or define"
    ):
        configured(Row())


def test_a_dataset_with_an_index_needs_no_torchdata() -> None:
    """It is read by torch's own loader."""
    trainer = configure_training(training_config())

    assert type(trainer._loop.data_loader) is DataLoader
