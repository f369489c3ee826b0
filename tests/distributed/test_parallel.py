"""A model that is parallelised over processes trains as on one."""

from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.parallel import shard_data_parallel, shard_experts
from d9d.core.settings import ConfigurationError

WIDTH = 6
NUM_EXPERTS = 4
NUM_SAMPLES = 8


class Experts(nn.Module):
    """Multiplies the samples of each expert, `[experts, batch, width]`, by its matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.stacked
        return inputs @ (weight.to_local() if isinstance(weight, DTensor) else weight)


class Block(nn.Module):
    """Every expert gets every sample, so that the result does not depend on a router."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.experts = Experts()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.inner(inputs).tanh()
        mixed: torch.Tensor = self.experts(hidden.expand(NUM_EXPERTS, *hidden.shape)).mean(dim=0)
        return hidden + mixed


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.outer = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = inputs + self.outer(self.inner(inputs).tanh())
        return outputs


def sum_gradients(model: nn.Module) -> None:
    """Have FSDP sum gradients, as the loop does."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def train(model: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sum_gradients(model)
    for _ in range(3):
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: full(parameter) for name, parameter in model.named_parameters()}


def dense_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), DenseBlock(), DenseBlock(), nn.Linear(WIDTH, 3))


def samples() -> torch.Tensor:
    return torch.randn(NUM_SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))


def train_shared(parameters: DeviceMeshParameters) -> dict[str, torch.Tensor]:
    context = DistributedContext.start("cpu", parameters)
    model = dense_model()
    shard_data_parallel(model, context, blocks=DenseBlock)
    assert [isinstance(module, FSDPModule) for module in model] == [False, True, True, False]  # type: ignore[attr-defined] # of a Sequential
    return train(model, samples().chunk(context.world_size)[context.rank])


@pytest.mark.parametrize(
    "layout",
    [
        {"data_parallel_shard": 2},
        {"data_parallel_replicate": 2},
        {"context_parallel": 2},
        pytest.param({"data_parallel_shard": 4}, marks=pytest.mark.slow),
        pytest.param({"data_parallel_replicate": 4}, marks=pytest.mark.slow),
        pytest.param({"data_parallel_replicate": 2, "data_parallel_shard": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_sharded_or_replicated_model_trains_as_on_one_process(layout: dict[str, int]) -> None:
    """Each process has its share of the samples."""
    expected = train(dense_model(), samples())
    parameters = DeviceMeshParameters(**layout)

    for weights in run_on_ranks(parameters.world_size, train_shared, parameters):
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-5)


def run_alone(policy: MixedPrecisionPolicy | None) -> tuple[bool, torch.Tensor]:
    distributed.destroy_process_group()
    context = DistributedContext.start("cpu")
    model = dense_model()
    shard_data_parallel(model, context, blocks=DenseBlock, mixed_precision=policy)
    return distributed.is_initialized(), model(samples()).detach()


def test_a_single_process_has_neither_fsdp_nor_a_process_group() -> None:
    """Its outputs are those of the plain model."""
    [(joined, outputs)] = run_on_ranks(1, run_alone, None)

    assert not joined
    assert torch.equal(outputs, dense_model()(samples()))


def test_mixed_precision_also_works_on_a_single_process() -> None:
    """With FSDP, so that values are rounded as with many processes."""
    [(joined, outputs)] = run_on_ranks(1, run_alone, MixedPrecisionPolicy(param_dtype=torch.bfloat16))

    assert joined
    assert outputs.dtype == torch.bfloat16


def mesh_dimensions(parameters: DeviceMeshParameters, policy: MixedPrecisionPolicy | None) -> dict[str, Any]:
    """Return the mesh dimensions and the local shape of each parameter."""
    context = DistributedContext.start("cpu", parameters)
    model = Block()
    shard_experts(model.experts, context, mixed_precision=policy)
    shard_data_parallel(model, context, mixed_precision=policy)
    local = {
        name: (parameter.device_mesh.mesh_dim_names, parameter.to_local().shape)
        for name, parameter in model.named_parameters()
        if isinstance(parameter, DTensor)
    }
    model.experts(torch.ones(NUM_EXPERTS // parameters.expert_parallel, 2, WIDTH)).sum().backward()
    return local


def test_each_process_has_its_own_experts() -> None:
    """The rest of the model is sharded over all processes."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    parameters = DeviceMeshParameters(data_parallel_shard=2, expert_parallel=2)

    for places in run_on_ranks(2, mesh_dimensions, parameters, None):
        assert places["experts.stacked"] == (("expert_parallel",), (NUM_EXPERTS // 2, WIDTH, WIDTH))
        assert places["inner.weight"] == (("data_parallel_shard",), (WIDTH // 2, WIDTH))
    for places in run_on_ranks(2, mesh_dimensions, parameters, policy):
        assert places["experts.stacked"][0] == ("expert_replicate", "expert_parallel")


@pytest.mark.slow
def test_equal_experts_are_sharded_over_the_processes_that_have_them() -> None:
    """Two of four processes have the same experts, and each holds half of their parameters."""
    parameters = DeviceMeshParameters(data_parallel_shard=4, expert_parallel=2)

    for places in run_on_ranks(4, mesh_dimensions, parameters, None):
        assert places["experts.stacked"] == (("expert_replicate", "expert_parallel"), (1, WIDTH, WIDTH))


def gradients_of_experts(parameters: DeviceMeshParameters) -> torch.Tensor:
    """Return the gradients of all experts after each process ran its experts on its samples."""
    context = DistributedContext.start("cpu", parameters)
    torch.manual_seed(0)
    experts = Experts()
    shard_experts(experts, context)
    sum_gradients(experts)
    mesh = context.mesh_for("expert")
    part = samples().chunk(mesh["expert_replicate"].size())[mesh.get_local_rank("expert_replicate")]
    experts(part.expand(NUM_EXPERTS // parameters.expert_parallel, *part.shape)).square().sum().backward()
    assert experts.stacked.grad is not None
    return full(experts.stacked.grad)


@pytest.mark.parametrize(
    "layout",
    [
        {"data_parallel_shard": 2, "expert_parallel": 2},
        pytest.param({"data_parallel_shard": 4, "expert_parallel": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_gradients_of_experts_are_summed_over_all_samples(layout: dict[str, int]) -> None:
    """Over all processes that have the same experts."""
    torch.manual_seed(0)
    experts = Experts()
    experts(samples().expand(NUM_EXPERTS, NUM_SAMPLES, WIDTH)).square().sum().backward()
    parameters = DeviceMeshParameters(**layout)

    for gradients in run_on_ranks(parameters.world_size, gradients_of_experts, parameters):
        torch.testing.assert_close(gradients, experts.stacked.grad)


def test_experts_that_do_not_divide_are_refused() -> None:
    """The error lists the sizes that would work."""
    parameters = DeviceMeshParameters(data_parallel_shard=3, expert_parallel=3)
    context = DistributedContext(device=torch.device("cpu"), world_size=3, mesh_parameters=parameters)
    with pytest.raises(ConfigurationError) as raised:
        shard_experts(Experts(), context)

    assert str(raised.value) == (
        "the parameter stacked has the shape [4, 6, 6], whose first dimension must be the number of experts, and a "
        "multiple of expert_parallel=3: set expert_parallel to 1 or 2 or 4"
    )
