"""A model whose gradients are not summed over all processes is refused."""

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.parallel import shard_data_parallel, shard_experts
from d9d.core.pipeline import ScheduleName
from d9d.core.settings import ConfigurationError
from d9d.loop.component.model import require_synchronized


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def refusal(modules: list[nn.Module], context: DistributedContext, schedule: ScheduleName | None = None) -> str | None:
    """Return the error with which a model is refused, or `None`."""
    try:
        require_synchronized(modules, context, schedule=schedule)
    except ConfigurationError as error:
        return str(error)
    return None


def refusal_of_plain() -> str | None:
    return refusal([layers()], DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2)))


def test_a_model_that_is_not_sharded_is_refused() -> None:
    """The error names the parameters and says what to do."""
    message = (
        "on rank 0: 2 processes (data_parallel_replicate × data_parallel_shard × context_parallel) have their own "
        "samples or tokens, but the gradients of these trainable parameters are not summed over all of them: "
        "0.weight, 0.bias, 1.weight, 1.bias. Freeze them, or apply shard_data_parallel (d9d.core.parallel) or torch's "
        "fully_shard to the whole model in parallelize_model_stage"
    )

    assert run_on_ranks(2, refusal_of_plain) == [message, message]


def refusal_of_some() -> list[str | None]:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    part, frozen, whole = layers(), layers(), layers()
    fully_shard(part[0], mesh=context.mesh_for("dense")["data_parallel_shard"])
    fully_shard(frozen[0], mesh=context.mesh_for("dense")["data_parallel_shard"])
    frozen[1].requires_grad_(requires_grad=False)
    shard_data_parallel(whole, context)
    return [refusal([part], context), refusal([frozen], context), refusal([whole], context)]


def test_only_trainable_parameters_must_be_sharded() -> None:
    """A frozen parameter need not be sharded; the error names only trainable parameters that are not."""
    for part, frozen, whole in run_on_ranks(2, refusal_of_some):
        assert part is not None
        assert "all of them: 1.weight, 1.bias. " in part
        assert frozen is whole is None


def refusal_of_one_stage() -> str | None:
    parameters = DeviceMeshParameters(pipeline_parallel=2, data_parallel_shard=2)
    context = DistributedContext.start("cpu", parameters)
    model = layers()
    if context.pipeline_rank == 0:
        shard_data_parallel(model, context)
    return refusal([model], context)


@pytest.mark.slow
def test_all_processes_raise_the_error_of_any_stage() -> None:
    """If the model of one stage is not sharded, all ranks raise the same error."""
    messages = run_on_ranks(4, refusal_of_one_stage)

    assert messages[0] is not None
    assert messages[0].startswith("on rank 2: 2 processes")
    assert {*messages} == {messages[0]}


def refusal_of_shards_without_replicas() -> str | None:
    parameters = DeviceMeshParameters(data_parallel_replicate=2, data_parallel_shard=2)
    context = DistributedContext.start("cpu", parameters)
    model = layers()
    fully_shard(model, mesh=context.mesh_for("dense")["data_parallel_shard"])
    return refusal([model], context)


@pytest.mark.slow
def test_replicas_that_are_not_synchronized_are_refused() -> None:
    """A model that is sharded but not replicated over the other data-parallel dimension is refused."""
    for message in run_on_ranks(4, refusal_of_shards_without_replicas):
        assert message is not None
        assert "4 processes" in message


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.ones(4, 2))


def refusal_of_experts(parameters: DeviceMeshParameters) -> str | None:
    context = DistributedContext.start("cpu", parameters)
    model = nn.Sequential(nn.Linear(2, 2), Experts())
    shard_experts(model[1], context)
    shard_data_parallel(model, context)
    return refusal([model], context)


@pytest.mark.parametrize(
    "layout",
    [
        {"data_parallel_shard": 2, "expert_parallel": 2},
        {"tensor_parallel": 2},
        pytest.param({"data_parallel_shard": 4, "expert_parallel": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_experts_and_tensor_parallel_models_are_accepted(layout: dict[str, int]) -> None:
    """Experts and dense layers sharded by d9d are accepted on expert- and tensor-parallel meshes."""
    parameters = DeviceMeshParameters(**layout)

    assert {*run_on_ranks(parameters.world_size, refusal_of_experts, parameters)} == {None}


def refusal_of_averages() -> list[str | None]:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_replicate=2))
    inner = nn.Sequential(DistributedDataParallel(nn.Linear(2, 2)))
    composed = layers()
    replicate(composed)
    return [refusal([inner], context, "zbv"), refusal([inner], context), refusal([composed], context, "1f1b")]


def test_ddp_is_refused_because_it_averages_gradients() -> None:
    """The error also says that DDP fails with a V schedule, if the pipeline has one."""
    for inner, without_schedule, composed in run_on_ranks(2, refusal_of_averages):
        assert inner == (
            "on rank 0: 0 (DistributedDataParallel) is wrapped by DistributedDataParallel, which averages gradients "
            "over the processes. The loop weights losses itself and needs the sum; besides, DDP fails with zbv. Set "
            "data_parallel_replicate in the mesh, and apply shard_data_parallel (d9d.core.parallel) or torch's "
            "fully_shard to the whole model in parallelize_model_stage, which replicates the model too"
        )
        assert without_schedule is not None
        assert "DDP fails" not in without_schedule
        assert composed is not None
        assert "the model itself (DDPSequential) is wrapped by DistributedDataParallel (by the older repl" in composed


def test_a_single_process_needs_no_synchronization() -> None:
    """A plain model on one process is accepted."""
    require_synchronized([layers()], DistributedContext(device=torch.device("cpu")))
