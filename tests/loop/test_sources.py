"""A model and a dataset may be given without a provider."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.loop.config import ConfigurationError
from d9d.loop.control import InitializeDatasetContext, InitializeDatasetResult, InitializeModelStageContext
from d9d.loop.control.provider import as_dataset_provider, as_model_provider

from .toy_job import ToyDataset, ToyDatasetProvider, ToyModelProvider, cpu_context


class Net(nn.Linear):
    """A model whose constructor needs no arguments."""

    def __init__(self, num_features: int = 3) -> None:
        super().__init__(num_features, 1)


def build_net() -> nn.Module:
    return Net()


def build_net_of(size: int, *, bias: bool) -> nn.Module:
    return nn.Linear(size, 1, bias=bias)


def model_from(source: Any, dist_context: DistributedContext | None = None) -> nn.Module:
    """Build the model as a loop does."""
    ctx = InitializeModelStageContext(dist_context=dist_context or cpu_context())
    return as_model_provider(source).initialize_model_stage(ctx).model


def test_a_model_provider_stays_the_object_that_it_is() -> None:
    """Its state and its handlers are found on it."""
    provider = ToyModelProvider()

    assert as_model_provider(provider) is provider


def test_a_ready_model_is_used_as_it_is() -> None:
    """It is not copied, so the caller sees the trained weights."""
    model = Net()

    assert model_from(model) is model


@pytest.mark.parametrize("source", [build_net, lambda: nn.Linear(3, 1), Net], ids=["function", "lambda", "class"])
def test_what_needs_no_argument_is_called_without_one(source: Callable[[], nn.Module]) -> None:
    """Also a class whose constructor has only optional arguments."""
    model = model_from(source)

    assert isinstance(model, nn.Linear)
    assert model.in_features == 3


def test_a_function_with_one_argument_gets_the_context() -> None:
    """So it can look at the device and the stage."""
    seen: list[InitializeModelStageContext] = []

    def build(ctx: InitializeModelStageContext) -> nn.Module:
        seen.append(ctx)
        return Net()

    model_from(build)

    assert [(ctx.dist_context.device, ctx.stage.num_stages) for ctx in seen] == [(torch.device("cpu"), 1)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gpt2", "model_provider is a str: pass a torch.nn.Module, a function that returns one, or a ModelProvider"),
        (None, "model_provider is None: pass a torch.nn.Module"),
        (ToyModelProvider, "model_provider is the class ToyModelProvider: pass an instance of it"),
        (nn.Linear, "model_provider is Linear, which requires the arguments (in_features"),
        (build_net_of, "model_provider is build_net_of, which requires the arguments (size: int, *, bias: bool)"),
    ],
    ids=["text", "none", "class of providers", "class with arguments", "function with arguments"],
)
def test_what_is_no_model_is_refused(source: Any, message: str) -> None:
    """The error says what was found and what to pass instead."""
    with pytest.raises(TypeError) as caught:
        as_model_provider(source)

    assert str(caught.value).startswith(message)


def test_a_function_that_returns_no_model_is_named() -> None:
    """Together with the type of what it returned."""

    def build() -> Any:
        return {"weight": 1}

    with pytest.raises(TypeError, match=r"build, which returned a dict: return a torch\.nn\.Module$"):
        model_from(build)


def context_of(**mesh: int) -> DistributedContext:
    return DistributedContext(
        device=torch.device("cpu"), world_size=2, mesh_parameters=DeviceMeshParameters.model_validate(mesh)
    )


def test_a_ready_model_is_for_one_process() -> None:
    """Its weights were drawn before the processes were seeded alike. The error says what to pass instead."""
    with pytest.raises(ConfigurationError) as caught:
        model_from(Net(), context_of(data_parallel_shard=2))

    assert str(caught.value) == (
        "model_provider is a ready Net, which works in a job of one process, and the mesh has 2: pass a function that "
        "builds the model, such as `lambda: Model(...)`, or a ModelProvider"
    )


@pytest.mark.parametrize("dimension", ["pipeline_parallel", "context_parallel", "tensor_parallel"])
def test_a_function_is_for_data_parallelism_alone(dimension: str) -> None:
    """The error names the two methods in which the work of a provider is done."""
    with pytest.raises(ConfigurationError) as caught:
        model_from(build_net, context_of(**{dimension: 2}))

    assert str(caught.value) == (
        "model_provider is build_net, which works with data parallelism alone, and the mesh has "
        f"{dimension}=2: pass a ModelProvider that builds the model in initialize_model_stage and divides it in "
        "parallelize_model_stage"
    )


def data_from(source: Any) -> InitializeDatasetResult:
    """Build the data as a loop does."""
    return as_dataset_provider(source)(InitializeDatasetContext(dist_context=cpu_context()))


def test_a_dataset_provider_stays_the_object_that_it_is() -> None:
    """Its state is found on it."""
    provider = ToyDatasetProvider()

    assert as_dataset_provider(provider) is provider


class CallableDataset(Dataset[int]):
    """Can be called like a provider, and is none."""

    def __call__(self) -> None: ...


@pytest.mark.parametrize("source", [ToyDataset(), CallableDataset(), [1, 2, 3]], ids=["dataset", "callable", "list"])
def test_a_dataset_is_used_as_it_is(source: Any) -> None:
    """So is any other object with samples by index."""
    assert data_from(source).dataset is source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ToyDataset, "dataset_provider is the class ToyDataset: pass an instance of it, ToyDataset(...)"),
        (DataLoader(ToyDataset()), "dataset_provider is a DataLoader: pass its dataset"),
        ("train.jsonl", "dataset_provider is a str: pass a torch.utils.data.Dataset, a list of samples, or a function"),
        ({"train": ToyDataset()}, "dataset_provider is a dict: pass a torch.utils.data.Dataset"),
        (None, "dataset_provider is None: pass a torch.utils.data.Dataset"),
    ],
    ids=["class", "loader", "text", "dict", "none"],
)
def test_what_is_no_dataset_is_refused(source: Any, message: str) -> None:
    """The error says what was found and what to pass instead."""
    with pytest.raises(TypeError) as caught:
        as_dataset_provider(source)

    assert str(caught.value).startswith(message)
