"""A trace of the loops by torch's profiler shows the same ranges as a trace of a hand-written loop."""

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

# TensorBoard takes the data-loading time from the range with this name.
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
    """Profile a hand-written training loop."""
    return ranges_of(train_by_hand)


@pytest.fixture(scope="module")
def trained() -> dict[str, int]:
    """Profile the training loop."""
    return ranges_of(configure_training(training_config(max_gradient_norm=1.0)).train)


def test_a_hand_written_loop_has_ranges_for_loading_step_and_zero_grad(trained_by_hand: dict[str, int]) -> None:
    """The trace of a hand-written loop has exactly the ranges of data loading, `step` and `zero_grad`."""
    assert set(trained_by_hand) == {LOADING, "Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad"}


def test_training_has_every_range_of_a_hand_written_loop(
    trained: dict[str, int], trained_by_hand: dict[str, int]
) -> None:
    """The trace of training has all ranges of a hand-written loop, under the same names."""
    assert set(trained_by_hand) <= set(trained)


def test_training_has_a_loading_range_for_each_micro_batch(trained: dict[str, int]) -> None:
    """Three steps of two micro-batches have six ranges of torch's own data loader iterator."""
    assert trained[LOADING] == 6


def test_training_has_a_range_for_each_optimizer_step(trained: dict[str, int]) -> None:
    """Three steps have three ranges of the optimizer step."""
    assert trained["Optimizer.step#AdamW.step"] == 3


def test_inference_has_every_range_of_a_hand_written_loop() -> None:
    """The only range of hand-written inference is data loading; d9d has one for each micro-batch too."""
    by_hand = ranges_of(infer_by_hand)
    inferred = ranges_of(configure_inference(inference_config(), task=ToyInferenceTask()).infer)

    assert set(by_hand) == {LOADING}
    assert inferred[LOADING] == 6
