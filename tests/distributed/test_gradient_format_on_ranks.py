"""Gradients of 16 bits are gathered in fp32 beside FSDP and on tensor-parallel meshes, or the setting is refused."""

from collections.abc import Callable

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.settings import ConfigurationError
from d9d.loop.component.gradients import GradientDtype

# The first gradient is so large that in 16 bits none of the others, alone, changes the sum.
NUM_SMALL = 256
FACTORS = [1.0] + [1 / NUM_SMALL] * NUM_SMALL
MESH = DeviceMeshParameters(data_parallel_shard=2)


class Sum(nn.Module):
    """Has a weight of 16 bits, whose gradient is the factor that it is called with."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=dtype))

    def forward(self, factor: torch.Tensor) -> torch.Tensor:
        return (self.weight * factor).sum()


def whole(gradient: torch.Tensor | None) -> tuple[torch.dtype, list[float]]:
    assert gradient is not None
    full = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return gradient.dtype, full.tolist()


def gather(model: nn.Module, weight: Callable[[], nn.Parameter], **settings: bool) -> list[object]:
    """Gather the gradients of all factors twice; return what was gathered, and what the optimizer got."""
    found: list[object] = []
    gradient_upcast = GradientDtype([model], "fp32")
    for _ in range(2):
        gradient_upcast.upcast()
        for index, factor in enumerate(FACTORS):
            if settings.get("accumulates_unsharded"):
                model.set_requires_gradient_sync(index == len(FACTORS) - 1)  # type: ignore[operator] # it is FSDP's
            model(torch.tensor(factor, dtype=torch.bfloat16)).backward()
        found.append(whole(weight().grad))
        gradient_upcast.downcast()
        found.append(whole(weight().grad))
        model.zero_grad()
    return found


def gather_sharded(accumulates_unsharded: bool) -> list[object]:  # noqa: FBT001 -- pickled as it is
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    model = Sum()
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    return gather(model, lambda: model.weight, accumulates_unsharded=accumulates_unsharded)


@pytest.mark.parametrize("accumulates_unsharded", [False, True])
def test_fsdp_gathers_in_fp32(accumulates_unsharded: bool) -> None:  # noqa: FBT001 -- a parameter of pytest
    """Whether shards are added up after each micro-batch, or wholes until the last one."""
    for found in run_on_ranks(2, gather_sharded, accumulates_unsharded):
        assert found == [(torch.float32, [2.0] * 4), (torch.bfloat16, [2.0] * 4)] * 2


def gather_tensor_parallel() -> list[object]:
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    model = Sum()
    model.weight = nn.Parameter(distribute_tensor(model.weight.data, mesh, [Shard(0)]))
    return gather(model, lambda: model.weight)


def test_sharded_tensors_without_fsdp_gather_in_fp32() -> None:
    """As those of `parallelize_module` are."""
    for found in run_on_ranks(2, gather_tensor_parallel):
        assert found == [(torch.float32, [2.0] * 4), (torch.bfloat16, [2.0] * 4)] * 2


def refusals() -> list[str]:
    """Return why models are refused, in which something else would gather in 16 bits."""
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    sharded, computing, inside, composed = Sum(), Sum(torch.float32), nn.Sequential(Sum()), Sum()
    fully_shard(sharded, mesh=mesh)
    fully_shard(computing, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    fully_shard(inside[0], mesh=mesh)
    fully_shard(inside, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    replicate(composed)
    messages = []
    for model in (sharded, computing, inside, DistributedDataParallel(Sum()), composed):
        with pytest.raises(ConfigurationError) as raised:
            GradientDtype([model], "fp32")
        messages.append(str(raised.value))
        GradientDtype([model], None)
    return messages


def test_what_gathers_in_16_bits_all_the_same_is_refused() -> None:
    """With what would do."""
    of_fsdp = (
        "gradient_dtype='fp32' needs gradients that are summed in fp32, but FSDP reduces those of a parameter of shape "
        "[4] in torch.bfloat16: shard it with MixedPrecisionPolicy(reduce_dtype=torch.float32), or set "
        "gradient_dtype=None"
    )
    for sharded, computing, inside, replicated, composed in run_on_ranks(2, refusals):
        assert (sharded, computing, inside) == (of_fsdp,) * 3
        assert replicated == composed
        assert replicated.startswith("gradient_dtype='fp32' does not work with DDP over 16-bit parameters")


def accepted() -> str:
    """Configure what needs nothing: parameters of fp32 that are computed with in 16 bits and added up in 32."""
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    model = Sum(torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return str(gather(model, lambda: model.weight))


def test_parameters_of_fp32_under_fsdp_are_as_they_should_be() -> None:
    """What FSDP adds up in fp32 stays so."""
    for found in run_on_ranks(2, accepted):
        assert found == str([(torch.float32, [2.0] * 4)] * 4)
