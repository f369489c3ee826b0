"""A run does not resume from a checkpoint with different settings, and the error names each difference."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.state_dict import StateError
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import InitializeLRSchedulerContext, InitializeOptimizerContext
from d9d.loop.control.provider import as_model_provider

from .toy_job import (
    NUM_FEATURES,
    ToyDataset,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)


def adamw(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.AdamW(ctx.parameters(), lr=0.25, fused=True)


def sgd(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.SGD(ctx.parameters(), lr=0.25)


def exponential(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    return torch.optim.lr_scheduler.ExponentialLR(ctx.torch_optimizer, gamma=0.5)


ANOTHER_JOB = "is a checkpoint of another job:\n  "
ANOTHER_ORDER = "was saved by a run that reads its data in another order:\n  "
DIFFERENCES = [
    pytest.param({"seed": 7}, {}, ANOTHER_ORDER, "seed is 7 here and 0 in the checkpoint", id="seed"),
    pytest.param({"global_batch_size": 6}, {}, ANOTHER_ORDER, "global_batch_size is 6 here and 4 in", id="batch-size"),
    pytest.param(
        {}, {"dataset": ToyDataset(13)}, ANOTHER_ORDER, "num_samples is 13 here and 12 in the checkpoint", id="data"
    ),
    pytest.param(
        {},
        {"model_provider": ToyModelProvider(num_hidden=5)},
        ANOTHER_JOB,
        "model/0.weight is 'float32[5, 3]' here and 'float32[4, 3]' in the checkpoint",
        id="model",
    ),
    pytest.param(
        {},
        {"optimizer_provider": sgd},
        ANOTHER_JOB,
        "optimizer_class is 'torch.optim.sgd.SGD' here and 'torch.optim.adamw.AdamW' in the checkpoint",
        id="optimizer",
    ),
]
REMEDIES = {
    ANOTHER_JOB: "Restore these settings to resume from it. To start from its weights instead, set source_checkpoint=",
    ANOTHER_ORDER: "Restore these settings, or allow the run to change them with resume=ResumeConfig(allow=[",
}


def contents(folder: Path) -> dict[Path, bytes]:
    """Read all files in a folder and below."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("settings", "parts", "problem", "difference"), DIFFERENCES)
def test_training_does_not_resume_with_different_settings(
    settings: dict[str, Any], parts: dict[str, Any], problem: str, difference: str, every_step: CheckpointingConfig
) -> None:
    """The error names the setting, both values and the remedy; files and weights stay as they are."""
    configure_training(training_config(every_step)).train()
    files = contents(every_step.folder)
    other = configure_training(training_config(every_step, **settings), **parts)
    initial = weights_of(other.modules[0])

    with pytest.raises(CheckpointError) as caught:
        other.train()
    message = str(caught.value)

    assert message.startswith(f"{every_step.folder / 'step-3'} {problem}")
    assert difference in message
    assert REMEDIES[problem] in message
    assert contents(every_step.folder) == files
    assert same_tensors(initial, weights_of(other.modules[0]))


@pytest.mark.parametrize(
    ("settings", "num_samples", "difference"),
    [
        ({"seed": 7}, 12, "seed is 7 here and 0 in the checkpoint"),
        ({"precision": "bf16-autocast"}, 12, "precision is 'bf16-autocast' here and 'fp32' in the checkpoint"),
        ({}, 13, "num_samples is 13 here and 12 in the checkpoint"),
    ],
)
def test_inference_does_not_resume_with_different_settings(
    settings: dict[str, Any], num_samples: int, difference: str, every_step: CheckpointingConfig
) -> None:
    """Inference refuses to resume with changed settings, so that outputs are not mixed."""
    configure_inference(inference_config(every_step)).infer()
    files = contents(every_step.folder)
    other = configure_inference(inference_config(every_step, **settings), dataset=ToyDataset(num_samples))

    with pytest.raises(CheckpointError) as caught:
        other.infer()
    assert difference in str(caught.value)
    assert contents(every_step.folder) == files


@pytest.mark.parametrize(
    "settings",
    [
        {"data_loading": {"num_workers": 1}},
        {"reporting": {"progress_bar": False, "period_steps": 1}},
        {"non_finite_gradients": "stop"},
        {"reporting": {"progress_bar": False, "period_steps": 1, "json_lines": None}},
    ],
)
def test_settings_that_do_not_affect_results_may_change(
    settings: dict[str, Any], every_step: CheckpointingConfig
) -> None:
    """Settings of data loading and reporting may change between runs."""
    configure_training(training_config(every_step)).train()

    again = configure_training(training_config(every_step, **settings))
    again.train()

    assert again.stepper.is_finished
    assert steps_saved(every_step.folder) == [1, 2, 3]


def test_how_often_a_run_saves_may_change(every_step: CheckpointingConfig) -> None:
    """The save period and the number of kept checkpoints may change between runs."""
    configure_training(training_config(every_step)).train()

    configure_training(training_config(every_step.model_copy(update={"period_steps": 5, "num_to_keep": 1}))).train()

    assert steps_saved(every_step.folder) == [3]


def test_only_the_first_ten_differences_are_listed(every_step: CheckpointingConfig) -> None:
    """The error lists ten differences and counts the others."""
    configure_training(training_config(every_step)).train()
    deep = as_model_provider(lambda: nn.Sequential(*(nn.Linear(NUM_FEATURES, NUM_FEATURES) for _ in range(8))))
    other = configure_training(training_config(every_step), model_provider=deep)

    with pytest.raises(CheckpointError) as caught:
        other.train()
    lines = str(caught.value).splitlines()

    assert len(lines) == 1 + 10 + 1 + 1
    assert lines[11].startswith("  … and ")


class UnkeepableTask(ToyTask):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": [1, {2, 3}]}


class UnkeepableInferenceTask(ToyInferenceTask):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": [1, {2, 3}]}


def test_state_that_a_checkpoint_cannot_hold_is_refused_at_configuration(every_step: CheckpointingConfig) -> None:
    """`configure()` raises an error with its path and type, instead of the first save hours later."""
    with pytest.raises(StateError, match=r"'task/all/seen/1' is a set, which a checkpoint cannot hold"):
        configure_training(training_config(every_step), task=UnkeepableTask())


def test_inference_state_that_a_checkpoint_cannot_hold_is_refused_at_configuration(
    every_step: CheckpointingConfig,
) -> None:
    """`configure()` refuses such state of an inference task too."""
    with pytest.raises(StateError, match=r"'task/rank-0/seen/1' is a set, which a checkpoint cannot hold"):
        configure_inference(inference_config(every_step), task=UnkeepableInferenceTask())


def test_any_state_is_accepted_without_checkpointing() -> None:
    """Without checkpointing the state of the task is not checked."""
    configure_training(training_config(), task=UnkeepableTask()).train()
