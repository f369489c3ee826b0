"""A configurator takes a model and a dataset as they are, in a job of one process."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from d9d.loop.config import InferenceConfig, ReportingConfig, TrainingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InferenceTask,
    ProcessOutputsContext,
    TrainTask,
)
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator

SAMPLES = [torch.full((2,), float(index)) for index in range(8)]
SILENT = ReportingConfig(progress_bar=False, period_steps=None, json_lines=None)
CONFIG = TrainingConfig(total_steps=3, global_batch_size=4, device="cpu", reporting=SILENT)


class Regression(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.square().mean())


class Collect(InferenceTask):
    def __init__(self) -> None:
        self.num_outputs = 0

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch})

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.num_outputs += len(ctx.outputs)


def make_model() -> nn.Module:
    return nn.Linear(2, 1)


@pytest.mark.parametrize("source", [make_model, lambda: nn.Linear(2, 1), lambda ctx: nn.Linear(2, 1)])
def test_training_takes_a_function_that_returns_the_model(source: Callable[..., nn.Module]) -> None:
    """Its weights are trained, and a list of samples serves as the dataset."""
    trainer = TrainingConfigurator(
        config=CONFIG, task=Regression(), model_provider=source, dataset_provider=SAMPLES
    ).configure()
    before = trainer.modules[0].state_dict()["weight"].clone()

    trainer.train()

    assert not torch.equal(before, trainer.modules[0].state_dict()["weight"])


def test_training_and_inference_take_a_ready_model() -> None:
    """The very module that was given is trained, and then used."""
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    TrainingConfigurator(
        config=CONFIG, task=Regression(), model_provider=model, dataset_provider=SAMPLES
    ).configure().train()
    assert not torch.equal(before, model.weight)

    collect = Collect()
    InferenceConfigurator(
        config=InferenceConfig(global_batch_size=4, device="cpu", reporting=SILENT),
        task=collect,
        model_provider=model,
        dataset_provider=SAMPLES,
    ).configure().infer()
    assert collect.num_outputs == len(SAMPLES)


def test_what_is_no_model_is_refused_at_once() -> None:
    """The message says what to pass."""
    with pytest.raises(TypeError, match=r"model_provider is an int: pass a torch\.nn\.Module, a function"):
        TrainingConfigurator(
            config=CONFIG,
            task=Regression(),
            model_provider=3,  # type: ignore[arg-type] # what is tested
            dataset_provider=SAMPLES,
        )
