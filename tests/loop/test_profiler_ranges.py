"""A trace by torch's profiler shows the ranges that it shows of a loop written by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from .toy_job import (
    NUM_FEATURES,
    ToyDataset,
    ToyInferenceTask,
    configure_inference,
    configure_training,
    inference_config,
    training_config,
)

# TensorBoard reads the time that goes into loading data from the range of this name.
LOADING = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"


def train_by_hand() -> None:
    """Run three steps of two micro-batches."""
    model = nn.Linear(NUM_FEATURES, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    for number, batch in enumerate(DataLoader(ToyDataset(), batch_size=2, shuffle=True), start=1):
        torch.autograd.backward(nn.functional.mse_loss(model(batch["features"]), batch["target"]))
        if number % 2 == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


@torch.inference_mode()
def infer_by_hand() -> None:
    """Run over all samples once."""
    model = nn.Linear(NUM_FEATURES, 1)
    for batch in DataLoader(ToyDataset(), batch_size=2):
        model(batch["features"])


def ranges_of(run: Callable[[], None]) -> dict[str, int]:
    """Count the annotated ranges of a trace, by name."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    names = [event.name for event in profiler.events() if event.is_user_annotation]
    return {name: names.count(name) for name in names}


@pytest.fixture(scope="module")
def trained_by_hand() -> dict[str, int]:
    """Profile training by hand."""
    return ranges_of(train_by_hand)


@pytest.fixture(scope="module")
def trained() -> dict[str, int]:
    """Profile the training loop."""
    return ranges_of(configure_training(training_config(max_gradient_norm=1.0)).train)


def test_a_loop_by_hand_shows_when_it_loads_updates_and_zeroes(trained_by_hand: dict[str, int]) -> None:
    """These are the names that people look for."""
    assert set(trained_by_hand) == {LOADING, "Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad"}


def test_training_shows_every_range_of_a_loop_by_hand(trained: dict[str, int], trained_by_hand: dict[str, int]) -> None:
    """Under the same names."""
    assert set(trained_by_hand) <= set(trained)


def test_training_shows_the_loading_of_each_micro_batch(trained: dict[str, int]) -> None:
    """Three steps of two micro-batches, each loaded by torch's own iterator."""
    assert trained[LOADING] == 6


def test_training_shows_each_optimizer_step(trained: dict[str, int]) -> None:
    """One for each of three steps."""
    assert trained["Optimizer.step#AdamW.step"] == 3


def test_inference_shows_every_range_of_a_loop_by_hand() -> None:
    """Loading is the only one."""
    by_hand = ranges_of(infer_by_hand)
    inferred = ranges_of(configure_inference(inference_config(), task=ToyInferenceTask()).infer)

    assert set(by_hand) == {LOADING}
    assert inferred[LOADING] == 6
