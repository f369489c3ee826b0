"""Forward passes run in the configured precision."""

from typing import Any

import pytest
import torch

from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_PRE

from .toy_job import ToyTask, configure_inference, configure_training, inference_config, training_config

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
        ],
    ),
]


class RecordingTask(ToyTask):
    """Records the dtypes of the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.dtypes.add(ctx.outputs.dtype)
        return super().compute_loss(ctx)


def train(device: str, **settings: Any) -> tuple[set[torch.dtype], set[torch.dtype], set[torch.dtype]]:
    """Train, and return the dtypes of outputs, gradients and weights."""
    task = RecordingTask()
    trainer = configure_training(training_config(device=device, **settings), task=task)
    gradients: set[torch.dtype] = set()
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        lambda ctx: gradients.update(w.grad.dtype for w in trainer.modules[0].parameters() if w.grad is not None),
    )
    trainer.train()
    return task.dtypes, gradients, {weight.dtype for weight in trainer.modules[0].parameters()}


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_computes_in_bfloat16_and_keeps_weights_in_float32(device: str) -> None:
    """With bf16-autocast the outputs are bfloat16; gradients and weights are float32."""
    assert train(device, precision="bf16-autocast") == ({torch.bfloat16}, {torch.float32}, {torch.float32})


@pytest.mark.parametrize("device", DEVICES)
def test_without_autocast_all_is_float32(device: str) -> None:
    """By default outputs, gradients and weights are float32."""
    assert train(device) == ({torch.float32}, {torch.float32}, {torch.float32})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16-autocast", torch.bfloat16)])
def test_inference_runs_in_the_configured_precision(device: str, precision: str, dtype: torch.dtype) -> None:
    """The outputs of inference have the dtype of the configured precision."""
    dtypes: set[torch.dtype] = set()
    run = configure_inference(inference_config(device=device, precision=precision))
    run.modules[0].register_forward_hook(lambda module, inputs, outputs: dtypes.add(outputs.dtype))

    run.infer()

    assert dtypes == {dtype}


def test_autocast_ends_with_the_forward_pass() -> None:
    """Autocast is off in the optimizer step and its handlers."""
    seen: list[bool] = []
    trainer = configure_training(training_config(precision="bf16-autocast"))
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE, lambda ctx: seen.append(torch.is_autocast_enabled("cpu"))
    )

    trainer.train()

    assert seen == [False] * 3
