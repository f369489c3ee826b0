"""With FSDP and tensor parallelism, 16-bit gradients are accumulated in fp32, or `gradient_dtype` is refused."""

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

# The first gradient is so large that in bfloat16 adding any one of the others does not change the sum.
NUM_SMALL = 256
FACTORS = [1.0] + [1 / NUM_SMALL] * NUM_SMALL
MESH = DeviceMeshParameters(data_parallel_shard=2)


class Sum(nn.Module):
    """Has one weight, whose gradient is the factor that the model is called with."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=dtype))

    def forward(self, factor: torch.Tensor) -> torch.Tensor:
        return (self.weight * factor).sum()


def whole(gradient: torch.Tensor | None) -> tuple[torch.dtype, list[float]]:
    assert gradient is not None
    full = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return gradient.dtype, full.tolist()


def accumulate(model: nn.Module, weight: Callable[[], nn.Parameter], **settings: bool) -> list[object]:
    """Run two steps over all factors; return dtype and values of the gradients before and after each downcast."""
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


def accumulate_with_fsdp(accumulates_unsharded: bool) -> list[object]:  # noqa: FBT001 -- pickled as it is
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    model = Sum()
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    return accumulate(model, lambda: model.weight, accumulates_unsharded=accumulates_unsharded)


@pytest.mark.parametrize("accumulates_unsharded", [False, True])
def test_fsdp_accumulates_in_fp32(accumulates_unsharded: bool) -> None:  # noqa: FBT001 -- a parameter of pytest
    """FSDP accumulates in fp32, whether it reduces after each micro-batch or only after the last one."""
    for found in run_on_ranks(2, accumulate_with_fsdp, accumulates_unsharded):
        assert found == [(torch.float32, [2.0] * 4), (torch.bfloat16, [2.0] * 4)] * 2


def accumulate_with_tensor_parallelism() -> list[object]:
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    model = Sum()
    model.weight = nn.Parameter(distribute_tensor(model.weight.data, mesh, [Shard(0)]))
    return accumulate(model, lambda: model.weight)


def test_tensor_parallel_parameters_accumulate_in_fp32() -> None:
    """Gradients of DTensors without FSDP, as `parallelize_module` makes them, are accumulated in fp32."""
    for found in run_on_ranks(2, accumulate_with_tensor_parallelism):
        assert found == [(torch.float32, [2.0] * 4), (torch.bfloat16, [2.0] * 4)] * 2


def refusals() -> list[str]:
    """Return the errors for models in which FSDP or DDP would reduce in 16 bits."""
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


def test_models_that_reduce_in_16_bits_are_refused() -> None:
    """If FSDP or DDP would reduce gradients in 16 bits, `gradient_dtype="fp32"` is refused, with the remedy."""
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
    """Accumulate the gradients of fp32 parameters that FSDP computes with in bfloat16 and reduces in fp32."""
    mesh = DistributedContext.start("cpu", MESH).mesh_for("dense")["data_parallel_shard"]
    model = Sum(torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return str(accumulate(model, lambda: model.weight))


def test_fp32_parameters_under_fsdp_keep_fp32_gradients() -> None:
    """Gradients that FSDP reduces in fp32 for fp32 parameters are left in fp32."""
    for found in run_on_ranks(2, accepted):
        assert found == str([(torch.float32, [2.0] * 4)] * 4)
