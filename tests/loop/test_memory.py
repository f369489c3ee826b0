"""The loops use less than 1 MB more memory than hand-written loops.

Weights, gradients, a micro-batch and its outputs are each larger than 1 MB. Peaks are measured for each part of a step,
since the peak of a whole step would hide an increase in the other parts. On the CPU no batch is copied to a device; on
the meta device nothing is reported.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from torch import nn
from torch.utils.data import DataLoader, Dataset

from d9d.loop.component import OptimizerBuilder
from d9d.loop.config import ReportingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import inference, train

from .toy_job import (
    QUIET,
    Listen,
    Sample,
    ToyInferenceTask,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    listen_to_nothing,
    training_config,
)

BOUND = 1_000_000  # bytes
NUM_FEATURES, NUM_HIDDEN, MICRO_BATCH_SIZE, NUM_MICRO_BATCHES, NUM_STEPS = 2560, 256, 128, 3, 2
SIZES: dict[str, Any] = {
    "global_batch_size": MICRO_BATCH_SIZE * NUM_MICRO_BATCHES,
    "micro_batch_size": MICRO_BATCH_SIZE,
}
MAX_NORM = 0.1


class WideDataset(Dataset[Sample]):
    """Random features `[feature]`."""

    def __init__(self) -> None:
        self._features = torch.randn(MICRO_BATCH_SIZE * NUM_MICRO_BATCHES * NUM_STEPS, NUM_FEATURES)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> Sample:
        return {"features": self._features[index]}


class WideModel(ModelProvider):
    """Two wide layers."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=new_model())


class WideTask(ToyTask):
    """Predicts its input; keeps the outputs if `keeps_outputs`."""

    def __init__(self, listen: Listen, *, keeps_outputs: bool = False) -> None:
        super().__init__(listen)
        self._keeps_outputs = keeps_outputs

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.kept = ctx.outputs if self._keeps_outputs else None
        return ComputeLossResult(loss=nn.functional.l1_loss(ctx.outputs, ctx.batch["features"]))


class WideInferenceTask(ToyInferenceTask):
    """Reduces the outputs at once, or keeps them if `keeps_outputs`."""

    def __init__(self, listen: Listen, *, keeps_outputs: bool = False) -> None:
        super().__init__(listen)
        self._keeps_outputs = keeps_outputs

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.kept = ctx.outputs if self._keeps_outputs else ctx.outputs.mean()


def new_model() -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_FEATURES, NUM_HIDDEN), nn.Tanh(), nn.Linear(NUM_HIDDEN, NUM_FEATURES))


def new_batches() -> Iterator[Sample]:
    return iter(DataLoader(WideDataset(), batch_size=MICRO_BATCH_SIZE))


def train_by_hand(device: str) -> list[int]:
    """Train with accumulation and clipping; return two peaks per step, of its passes and its update, in bytes."""
    peaks: list[int] = []
    model, batches, live = new_model().to(device), new_batches(), LiveMemory(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=False)

    def accumulate(batch: Sample) -> torch.Tensor:
        features = batch["features"].to(device)
        loss = nn.functional.l1_loss(model(features), features) / NUM_MICRO_BATCHES
        torch.autograd.backward(loss)
        return loss.detach()

    with live:
        for _ in range(NUM_STEPS):
            sum(accumulate(batch) for batch in itertools.islice(batches, NUM_MICRO_BATCHES))
            peaks.append(live.take_peak())
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
            peaks.append(live.take_peak())
    return peaks


def train_with_loop(
    device: str, reporting: ReportingConfig = QUIET, listen: Listen = listen_to_nothing, *, keeps_outputs: bool = False
) -> list[int]:
    """Train with `Trainer`; return the same peaks as `train_by_hand`."""
    peaks: list[int] = []
    live = LiveMemory(device)

    def listen_to_parts(bus: EventBus) -> None:
        listen(bus)
        for event in (train.EVENT_TRAIN_FORWARD_BACKWARD_POST, train.EVENT_TRAIN_STEP_POST):
            bus.subscribe(event, lambda ctx: peaks.append(live.take_peak()))

    trainer = configure_training(
        training_config(**SIZES, device=device, total_steps=NUM_STEPS, max_gradient_norm=MAX_NORM, reporting=reporting),
        task=WideTask(listen_to_parts, keeps_outputs=keeps_outputs),
        model_provider=WideModel(),
        dataset=WideDataset(),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, fused=False),
    )
    with live:
        trainer.train()
    return peaks


def infer_by_hand(device: str) -> list[int]:
    """Run the model over all samples; return the peak of each step, in bytes."""
    peaks: list[int] = []
    model, batches, live = new_model().to(device), new_batches(), LiveMemory(device)
    with live, torch.inference_mode():
        for _ in range(NUM_STEPS):
            for batch in itertools.islice(batches, NUM_MICRO_BATCHES):
                model(batch["features"].to(device)).mean()
            peaks.append(live.take_peak())
    return peaks


def infer_with_loop(device: str, reporting: ReportingConfig = QUIET, *, keeps_outputs: bool = False) -> list[int]:
    """Infer with `Inference`; return the same peaks as `infer_by_hand`."""
    peaks: list[int] = []
    live = LiveMemory(device)

    def listen(bus: EventBus) -> None:
        bus.subscribe(inference.EVENT_INFERENCE_STEP_POST, lambda ctx: peaks.append(live.take_peak()))

    run = configure_inference(
        inference_config(**SIZES, device=device, reporting=reporting),
        task=WideInferenceTask(listen, keeps_outputs=keeps_outputs),
        model_provider=WideModel(),
        dataset=WideDataset(),
    )
    with live:
        run.infer()
    return peaks


def added(own: list[int], by_hand: list[int]) -> int:
    """Return the largest difference between two lists of peaks, in bytes."""
    return max(more - less for more, less in zip(own, by_hand, strict=True))


def reporting_on(device: str, folder: Path) -> ReportingConfig:
    """Enable all reports, or none on the meta device, which has no values."""
    if device == "meta":
        return QUIET
    return ReportingConfig(progress_bar=True, period_steps=1, json_lines=folder / "metrics.jsonl")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_training_adds_under_1_mb(device: str, tmp_path: Path) -> None:
    """In each part of each step, training with micro-batches, clipping and reports uses under 1 MB more."""
    assert added(train_with_loop(device, reporting_on(device, tmp_path)), train_by_hand(device)) < BOUND


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_inference_adds_under_1_mb(device: str, tmp_path: Path) -> None:
    """In each step, inference with micro-batches and reports uses under 1 MB more."""
    assert added(infer_with_loop(device, reporting_on(device, tmp_path)), infer_by_hand(device)) < BOUND


def weight_of(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.detach()


def gradient_of(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("tensor_of", [weight_of, gradient_of])
def test_a_copy_that_a_handler_keeps_exceeds_the_bound(tensor_of: Callable[[nn.Parameter], torch.Tensor]) -> None:
    """A handler that keeps a copy of all weights or all gradients exceeds the bound of 1 MB."""
    modules: list[nn.Module] = []
    kept: list[torch.Tensor] = []

    def keep(ctx: train.EventStepContext) -> None:
        kept[:] = [tensor_of(parameter).clone() for module in modules for parameter in module.parameters()]

    def listen(bus: EventBus) -> None:
        bus.subscribe(train.EVENT_TRAIN_MODEL_STAGES_READY, lambda ctx: modules.extend(ctx.modules))
        bus.subscribe(train.EVENT_TRAIN_OPTIMIZER_STEP_PRE, keep)

    own = train_with_loop("meta", listen=listen)

    assert added(own, train_by_hand("meta")) > BOUND
    assert kept != []


def test_outputs_that_a_task_keeps_exceed_the_bound() -> None:
    """A task that keeps the outputs of one micro-batch exceeds the bound of 1 MB, in training and in inference."""
    assert added(train_with_loop("meta", keeps_outputs=True), train_by_hand("meta")) > BOUND
    assert added(infer_with_loop("meta", keeps_outputs=True), infer_by_hand("meta")) > BOUND
