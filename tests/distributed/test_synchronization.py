"""A model whose gradients would stay with the process that has them is refused."""

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.parallel import shard_data_parallel, shard_experts
from d9d.core.settings import ConfigurationError
from d9d.loop.component.model import require_synchronized


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def told(modules: list[nn.Module], context: DistributedContext, schedule: str | None = None) -> str | None:
    """Return why a model is refused, or nothing."""
    try:
        require_synchronized(modules, context, schedule=schedule)
    except ConfigurationError as error:
        return str(error)
    return None


def told_of_plain() -> str | None:
    return told([layers()], DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2)))


def test_parameters_of_one_process_each_are_refused() -> None:
    """By name, with what to do."""
    message = (
        "on rank 0: 2 processes (data_parallel_replicate × data_parallel_shard × context_parallel) have samples or "
        "tokens of their own, and the gradients of these trainable parameters are not added up over all of them: "
        "0.weight, 0.bias, 1.weight, 1.bias. Freeze them, or apply shard_data_parallel (d9d.core.parallel) or torch's "
        "fully_shard to the whole model in parallelize_model_stage"
    )

    assert run_on_ranks(2, told_of_plain) == [message, message]


def told_of_some() -> list[str | None]:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    part, frozen, whole = layers(), layers(), layers()
    fully_shard(part[0], mesh=context.mesh_for("dense")["data_parallel_shard"])
    fully_shard(frozen[0], mesh=context.mesh_for("dense")["data_parallel_shard"])
    frozen[1].requires_grad_(requires_grad=False)
    shard_data_parallel(whole, context)
    return [told([part], context), told([frozen], context), told([whole], context)]


def test_what_is_left_out_is_named() -> None:
    """If it is trained."""
    for part, frozen, whole in run_on_ranks(2, told_of_some):
        assert part is not None
        assert "all of them: 1.weight, 1.bias. " in part
        assert frozen is whole is None


def told_of_one_stage() -> str | None:
    parameters = DeviceMeshParameters(pipeline_parallel=2, data_parallel_shard=2)
    context = DistributedContext.start("cpu", parameters)
    model = layers()
    if context.pipeline_rank == 0:
        shard_data_parallel(model, context)
    return told([model], context)


@pytest.mark.slow
def test_all_processes_are_told_of_a_mistake_in_any_stage() -> None:
    """All in the same words."""
    messages = run_on_ranks(4, told_of_one_stage)

    assert messages[0] is not None
    assert messages[0].startswith("on rank 2: 2 processes")
    assert {*messages} == {messages[0]}


def told_of_shards_without_copies() -> str | None:
    parameters = DeviceMeshParameters(data_parallel_replicate=2, data_parallel_shard=2)
    context = DistributedContext.start("cpu", parameters)
    model = layers()
    fully_shard(model, mesh=context.mesh_for("dense")["data_parallel_shard"])
    return told([model], context)


@pytest.mark.slow
def test_copies_that_nobody_keeps_alike_are_refused() -> None:
    """Where the model is divided over some of the processes alone."""
    for message in run_on_ranks(4, told_of_shards_without_copies):
        assert message is not None
        assert "4 processes" in message


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.ones(4, 2))


def told_of_experts(parameters: DeviceMeshParameters) -> str | None:
    context = DistributedContext.start("cpu", parameters)
    model = nn.Sequential(nn.Linear(2, 2), Experts())
    shard_experts(model[1], context)
    shard_data_parallel(model, context)
    return told([model], context)


@pytest.mark.parametrize(
    "layout",
    [
        {"data_parallel_shard": 2, "expert_parallel": 2},
        {"tensor_parallel": 2},
        pytest.param({"data_parallel_shard": 4, "expert_parallel": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_experts_and_single_copies_are_accepted(layout: dict[str, int]) -> None:
    """Each expert is in one place, or shared by those that have it."""
    parameters = DeviceMeshParameters(**layout)

    assert {*run_on_ranks(parameters.world_size, told_of_experts, parameters)} == {None}


def told_of_averages() -> list[str | None]:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_replicate=2))
    inner = nn.Sequential(DistributedDataParallel(nn.Linear(2, 2)))
    composed = layers()
    replicate(composed)
    return [told([inner], context, "zbv"), told([inner], context), told([composed], context, "1f1b")]


def test_means_of_gradients_are_refused() -> None:
    """With the V schedule that they fail with besides, if there is one."""
    for inner, without_schedule, composed in run_on_ranks(2, told_of_averages):
        assert inner == (
            "on rank 0: 0 (DistributedDataParallel) is wrapped by DistributedDataParallel: it takes the mean of "
            "gradients over the processes, and the loop, which weighs losses itself, needs their sum, and with a V "
            "schedule such as zbv it fails. Set data_parallel_replicate in the mesh, and apply shard_data_parallel "
            "(d9d.core.parallel) or torch's fully_shard to the whole model in parallelize_model_stage: it holds copies "
            "of the model likewise"
        )
        assert without_schedule is not None
        assert "V schedule" not in without_schedule
        assert composed is not None
        assert "the model itself (DDPSequential) is wrapped by DistributedDataParallel (by the older repl" in composed


def test_a_process_alone_needs_nothing() -> None:
    """It has all gradients."""
    require_synchronized([layers()], DistributedContext(device=torch.device("cpu")))
