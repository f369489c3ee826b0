"""Arguments of another kind than a configurator takes are refused before anything is built, with what to pass."""

import dataclasses
import functools
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader

from d9d.core.device import choose_device
from d9d.loop.config import (
    CheckpointingConfig,
    InferenceConfig,
    ProfilingConfig,
    ReportingConfig,
    TrainingConfig,
)
from d9d.loop.control import (
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeDatasetResult,
    TrainTask,
)
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator

from .toy_job import (
    ToyDataset,
    ToyDatasetProvider,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)

TRAINING: dict[str, Any] = {
    "config": training_config(),
    "task": ToyTask(),
    "model_provider": ToyModelProvider(),
    "dataset_provider": ToyDatasetProvider(),
}
INFERENCE: dict[str, Any] = {
    "config": inference_config(),
    "task": ToyInferenceTask(),
    "model_provider": ToyModelProvider(),
    "dataset_provider": ToyDatasetProvider(),
}
PARAMETER = nn.Parameter(torch.ones(1))
SGD = torch.optim.SGD([PARAMETER], lr=0.1)


def without_argument() -> Any: ...


class Function:
    """Refuses everything, as a provider that cannot be called."""


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("config", {"total_steps": 3}, "config is a dict: pass a TrainingConfig(...)"),
        ("config", None, "config is None: pass a TrainingConfig(...)"),
        ("config", inference_config(), "config is an InferenceConfig: pass a TrainingConfig(...)"),
        ("config", TrainingConfig, "config is the class TrainingConfig: pass an instance of it, TrainingConfig(...)"),
        ("task", ToyTask, "task is the class ToyTask: pass an instance of it, ToyTask(...)"),
        (
            "task",
            ToyInferenceTask(),
            "task is a ToyInferenceTask: pass an object of a class that derives from TrainTask",
        ),
        ("task", nn.MSELoss(), "task is a MSELoss: pass an object of a class that derives from TrainTask"),
        ("task", without_argument, "task is a function: pass an object of a class that derives from TrainTask"),
        ("dataset_provider", DataLoader(ToyDataset()), "dataset_provider is a DataLoader: pass its dataset, since "),
        ("dataset_provider", nn.Linear(1, 1), "dataset_provider is a Linear, which is a model: pass it as "),
        (
            "dataset_provider",
            without_argument,
            "dataset_provider is without_argument, whose signature is () -> Any: it is called with one argument, an I",
        ),
        ("optimizer_provider", SGD, "optimizer_provider is a ready SGD, and the loop builds the optimizer when "),
        ("optimizer_provider", torch.optim.SGD, "optimizer_provider is the class SGD: pass OptimizerBuilder(SGD, lr="),
        (
            "optimizer_provider",
            functools.partial(torch.optim.SGD, lr=0.1),
            "optimizer_provider is a partial of the class SGD: pass OptimizerBuilder(SGD, lr=",
        ),
        ("optimizer_provider", Function, "optimizer_provider is the class Function: pass an instance of it"),
        ("optimizer_provider", "adamw", "optimizer_provider is a str: pass a function that takes an Initialize"),
        ("optimizer_provider", without_argument, "optimizer_provider is without_argument, whose signature is () ->"),
        (
            "lr_scheduler_provider",
            torch.optim.lr_scheduler.LinearLR(SGD),
            "lr_scheduler_provider is a ready LinearLR, and the loop builds the optimizer: pass an LRSchedule such as",
        ),
        (
            "lr_scheduler_provider",
            torch.optim.lr_scheduler.StepLR,
            "lr_scheduler_provider is the class StepLR: pass a function, such as `lambda ctx: StepLR(ctx.torch_optimi",
        ),
        (
            "lr_scheduler_provider",
            functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1),
            "lr_scheduler_provider is a partial of the class StepLR: pass a function, such as `lambda ctx: StepLR(ctx.",
        ),
        ("lr_scheduler_provider", 0.1, "lr_scheduler_provider is a float: pass a function that takes an Initialize"),
        ("evaluations", [ToyDataset()], "evaluations is a list: pass a mapping from names to objects, evaluations={'"),
        (
            "stateful",
            {"counts": {}},
            "stateful['counts'] is a dict, which has no state to save: pass an object with state_dict and load_state_",
        ),
        ("stateful", {"task": ToyTask}, "stateful['task'] is the class ToyTask, which has no state to save: pass an "),
        ("stateful", [ToyTask()], "stateful is a list: pass a mapping from names to objects, stateful={'name': ...}"),
    ],
)
def test_training_names_the_argument_and_what_to_pass(argument: str, value: Any, message: str) -> None:
    """Already when the configurator is made."""
    with pytest.raises(TypeError) as caught:
        TrainingConfigurator(**{**TRAINING, argument: value})

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("config", training_config(), "config is a TrainingConfig: pass an InferenceConfig(...)"),
        ("task", ToyTask(), "task is a ToyTask: pass an object of a class that derives from InferenceTask"),
        ("dataset_provider", DataLoader(ToyDataset()), "dataset_provider is a DataLoader: pass its dataset"),
        ("stateful", [], "stateful is a list: pass a mapping from names to objects"),
        ("stateful", {"counts": {}}, "stateful['counts'] is a dict, which has no state to save"),
    ],
)
def test_inference_names_the_argument_and_what_to_pass(argument: str, value: Any, message: str) -> None:
    """As training does."""
    with pytest.raises(TypeError) as caught:
        InferenceConfigurator(**{**INFERENCE, argument: value})

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optimizer_provider", "optimizer_provider returned None: return an optimizer, such as one of torch.optim"),
        ("lr_scheduler_provider", "lr_scheduler_provider returned None: return a scheduler, such as one of torch.op"),
    ],
)
def test_a_provider_without_a_result_is_refused_before_the_first_step(argument: str, message: str) -> None:
    """As one that forgets to return it."""
    with pytest.raises(TypeError) as caught:
        TrainingConfigurator(**{**TRAINING, argument: lambda ctx: None}).configure()

    assert str(caught.value).startswith(message)


def test_a_data_loader_is_no_dataset_of_a_result() -> None:
    """As it is none itself."""
    with pytest.raises(TypeError, match="dataset of InitializeDatasetResult is a DataLoader: pass its dataset, since "):
        InitializeDatasetResult(dataset=DataLoader(ToyDataset()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["inputs", "shared_inputs"])
def test_inputs_have_names(name: str) -> None:
    """They are the keyword arguments of the model."""
    given: dict[str, Any] = {"inputs": {}, name: torch.ones(1)}
    with pytest.raises(TypeError, match=f"^{name} of BuildForwardInputsResult is a Tensor: pass a mapping from the na"):
        BuildForwardInputsResult(**given)


def test_a_loss_weight_is_one_number() -> None:
    """The error has the shape of what was given."""
    with pytest.raises(ValueError, match=r"loss_weight of ComputeLossResult has the shape \[2\]: pass one number"):
        ComputeLossResult(loss=torch.ones(()), loss_weight=torch.ones(2))


@dataclasses.dataclass
class ModelOutput:
    """The outputs of a model that computes its loss, as those of transformers are."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class ModelOutputDict(OrderedDict[str, Any]):
    """The same, as a mapping with attributes."""

    @property
    def loss(self) -> Any:
        return self["loss"]


class Returning(ToyTask):
    """Returns something of the loss that it computes.

    Args:
        wrap: Makes it of the loss.
    """

    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self._wrap = wrap

    def compute_loss(self, ctx: ComputeLossContext) -> Any:
        return self._wrap(super().compute_loss(ctx).loss)


@pytest.mark.parametrize("kind", [ModelOutput, ModelOutputDict])
def test_outputs_with_a_loss_are_a_result(kind: type) -> None:
    """The weights are those of a task that returns a ComputeLossResult."""
    trained = []
    for task in (ToyTask(), Returning(lambda loss: kind(loss=loss, logits=loss))):
        trainer = configure_training(training_config(), task=task)
        trainer.train()
        trained.append(weights_of(trainer.modules[0]))

    assert same_tensors(*trained)


class WithLoss(nn.Module):
    """A model that computes its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, features: torch.Tensor, target: torch.Tensor, index: torch.Tensor) -> ModelOutput:
        outputs = self.linear(features)
        return ModelOutput(nn.functional.mse_loss(outputs, target), outputs)


def test_a_model_that_computes_its_loss_needs_no_task_of_its_own() -> None:
    """Batches are its keyword arguments, and its outputs have the loss."""
    model = WithLoss()
    before = weights_of(model)
    TrainingConfigurator(**{**TRAINING, "task": TrainTask(), "model_provider": model}).configure().train()

    assert not same_tensors(before, weights_of(model))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda loss: None, "returned None: return a ComputeLossResult(...)"),
        (lambda loss: loss, "returned a Tensor: return a ComputeLossResult(...)"),
        (
            lambda loss: ModelOutput(None, loss),
            "returned a ModelOutput whose loss is None: return a scalar tensor. A m",
        ),
        (lambda loss: ModelOutput(0.5, loss), "returned a ModelOutput whose loss is 0.5, a number of Python without g"),  # type: ignore[arg-type]
        (lambda loss: ModelOutput([], loss), "returned a ModelOutput whose loss is a list: return a scalar tensor"),  # type: ignore[arg-type]
    ],
    ids=["none", "tensor", "no loss", "number", "list"],
)
def test_a_loss_that_is_no_tensor_is_refused_by_name(wrap: Callable[[torch.Tensor], Any], message: str) -> None:
    """The error names the method."""
    with pytest.raises(TypeError) as caught:
        configure_training(training_config(), task=Returning(wrap)).train()

    assert str(caught.value).startswith(f"Returning.compute_loss {message}")


@pytest.mark.parametrize("wrap", [torch.Tensor.detach, lambda loss: torch.tensor(loss.item())])
def test_a_loss_without_gradients_is_refused_by_name(wrap: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The error names the method."""
    task = Returning(lambda loss: ComputeLossResult(loss=wrap(loss)))
    with pytest.raises(ValueError, match=r"^Returning\.compute_loss returned a loss without gradients, so nothing "):
        configure_training(training_config(), task=task).train()


@pytest.mark.parametrize(
    "make",
    [
        lambda url: CheckpointingConfig(folder=url),
        lambda url: ReportingConfig(json_lines=url),
        lambda url: ReportingConfig(tensorboard=url),
        lambda url: ProfilingConfig(folder=url),
        lambda url: InferenceConfig(global_batch_size=1, source_checkpoint=url),
    ],
)
@pytest.mark.parametrize("url", ["s3://bucket/run", Path("s3://bucket/run"), "hf://model", "file:///tmp/run"])
def test_a_remote_address_is_no_folder(make: Callable[[Any], object], url: Any) -> None:
    """`pathlib` would make a local folder named `s3:`."""
    with pytest.raises(ValidationError, match="is the address of a remote store, and d9d reads and writes paths of"):
        make(url)


@pytest.mark.parametrize("path", ["runs/a:b/c", "C:/runs", "./s3:/x"])
def test_a_colon_alone_makes_no_address(path: str) -> None:
    """Paths may contain one."""
    assert CheckpointingConfig.model_validate({"folder": path}).folder == Path(path)


def test_a_path_may_start_at_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pathlib` would make a local folder named `~`."""
    monkeypatch.setenv("HOME", "/home/someone")

    assert CheckpointingConfig.model_validate({"folder": "~/runs"}).folder == Path("/home/someone/runs")


def test_a_word_that_is_no_mesh_is_refused_with_the_one_that_is() -> None:
    """It may be misspelt."""
    with pytest.raises(ValidationError, match="'atuo' is no mesh: use 'auto' for all processes that were started, or "):
        training_config(mesh="atuo")


def test_the_command_of_catalogues_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    """Without a traceback."""
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError('no', name='jinja2')", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "d9d_codegen", "check"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 1
    assert run.stderr == (
        "d9d-catalogue needs jinja2, which is not installed: run `pip install 'd9d-hooks[codegen]'`\n"
    )


def test_an_unknown_device_is_one_line() -> None:
    """It names what this machine has."""
    with pytest.raises(RuntimeError) as caught:
        configure_training(training_config(device="gpu"))

    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("device='gpu' cannot be used on this machine: torch knows no device of this ")
    assert "Use 'cpu'" in str(caught.value)


def test_the_reason_of_torch_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of its message is for those who develop torch."""

    def refuse(*sizes: int, **options: Any) -> torch.Tensor:
        raise NotImplementedError(
            "Could not run 'aten::empty' with the 'MPS' backend. This could be because " + "a" * 2000
        )

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(RuntimeError) as caught:
        choose_device("mps")

    assert str(caught.value).startswith(
        "device='mps' cannot be used on this machine (Could not run 'aten::empty' with "
    )
    assert len(str(caught.value)) < 200
