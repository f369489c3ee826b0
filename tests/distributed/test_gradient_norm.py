"""The gradient norm of a distributed job equals that of the whole model in one process, on every rank."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_on_ranks
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext, MeshName
from d9d.loop.component.gradients import GradientNorm, clip_gradients

MAX_NORM = 3.0
ALONE = DistributedContext(device=torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Placed:
    """How one parameter is distributed over the ranks.

    Attributes:
        shape: The shape of the full parameter.
        mesh: The mesh whose `dimensions` the parameter is distributed over; without dimensions it is a plain tensor.
        dimensions: The dimensions of the mesh.
        placements: One placement for each dimension.
        stage: The pipeline rank that holds the parameter.
        dtype: The dtype of the parameter.
    """

    shape: tuple[int, ...]
    dimensions: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()
    mesh: MeshName = "dense"
    stage: int = 0
    dtype: torch.dtype = torch.float32

    def whole_gradient(self, index: int) -> torch.Tensor:
        """Draw the full gradient, the same on every rank."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(index)).to(self.dtype)

    def place(self, index: int, context: DistributedContext) -> nn.Parameter:
        """Create the parameter with its gradient, as this rank holds them."""
        gradient = self.whole_gradient(index)
        if self.dimensions:
            mesh = context.mesh_for(self.mesh)[self.dimensions]
            gradient = distribute_tensor(gradient, mesh, self.placements)
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        return parameter


FSDP = (("data_parallel_shard",), (Shard(0),))
TP = (("tensor_parallel",), (Shard(1),))
HSDP = (("data_parallel_replicate", "data_parallel_shard"), (Replicate(), Shard(0)))
EXPERT = (("expert_parallel",), (Shard(0),))
HSDP_EXPERT = (("expert_replicate", "expert_parallel"), (Replicate(), Shard(0)))
PLAIN = Placed((7,))

ON_TWO = {
    "replicate": ({"data_parallel_replicate": 2}, [PLAIN, Placed((4, 2))]),
    "fsdp and plain": ({"data_parallel_shard": 2}, [Placed((5, 3), *FSDP), PLAIN, Placed((1, 2), *FSDP)]),
    "hsdp of one shard": ({"data_parallel_replicate": 2}, [Placed((5, 3), *HSDP), PLAIN]),
    "tensor parallel and fsdp": ({"tensor_parallel": 2}, [Placed((4, 6), *TP), Placed((4, 2), *FSDP), PLAIN]),
    "experts": (
        {"data_parallel_shard": 2, "expert_parallel": 2},
        [Placed((4, 3), *FSDP), Placed((2, 3, 3), *EXPERT, mesh="expert"), PLAIN],
    ),
    "replicated experts": (
        {"data_parallel_shard": 2},
        [Placed((4, 3), *FSDP), Placed((2, 3, 3), *HSDP_EXPERT, mesh="expert"), PLAIN],
    ),
    "stages": ({"pipeline_parallel": 2}, [Placed((4, 3)), Placed((5, 3), stage=1), Placed((2,), stage=1)]),
    "a stage without parameters": ({"pipeline_parallel": 2}, [Placed((4, 3), stage=1)]),
    "bfloat16": (
        {"data_parallel_shard": 2},
        [Placed((301, 7), *FSDP, dtype=torch.bfloat16), Placed((99,), dtype=torch.bfloat16), Placed((5, 3), *FSDP)],
    ),
}
ON_FOUR = {
    "hsdp": ({"data_parallel_replicate": 2, "data_parallel_shard": 2}, [Placed((5, 3), *HSDP), PLAIN]),
    "fsdp and tensor parallel": (
        {"data_parallel_shard": 2, "tensor_parallel": 2},
        [
            Placed((6, 4), ("data_parallel_shard", "tensor_parallel"), (Shard(0), Shard(1))),
            Placed((6, 4), ("data_parallel_shard", "tensor_parallel"), (Shard(0), Replicate())),
            Placed((5, 3), *FSDP),
            Placed((4, 6), *TP),
            PLAIN,
        ],
    ),
    "stages and fsdp": (
        {"pipeline_parallel": 2, "data_parallel_shard": 2},
        [Placed((5, 3), *FSDP), PLAIN, Placed((6, 3), *FSDP, stage=1), Placed((9,), stage=1)],
    ),
    "experts on a slice": (
        {"data_parallel_shard": 4, "expert_parallel": 2},
        [Placed((4, 3, 3), *EXPERT, mesh="expert"), Placed((4, 3), *HSDP_EXPERT, mesh="expert"), Placed((9, 3), *FSDP)],
    ),
    "stages, experts and tensor parallel": (
        {"pipeline_parallel": 2, "tensor_parallel": 2},
        [Placed((4, 6), *TP), Placed((6, 2), *FSDP, stage=1), Placed((4, 3), *EXPERT, mesh="expert", stage=1), PLAIN],
    ),
}


def clip_on_rank(parameters: DeviceMeshParameters, held: list[Placed]) -> tuple[float, dict[int, torch.Tensor]]:
    """Clip on one rank; return the norm before clipping and the full clipped gradients, by index."""
    context = DistributedContext.start("cpu", parameters)
    placed = {
        index: each.place(index, context) for index, each in enumerate(held) if each.stage == context.pipeline_rank
    }
    norm = GradientNorm(list(placed.values()), context).measure()
    clip_gradients(placed.values(), norm, MAX_NORM)
    assert norm.dtype == torch.float32
    gradients = {index: parameter.grad for index, parameter in placed.items()}
    return norm.item(), {
        index: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        for index, gradient in gradients.items()
        if gradient is not None
    }


def check_clipping(num_ranks: int, mesh: dict[str, int], held: list[Placed]) -> None:
    """Compare norm and clipped gradients of all ranks with those of the whole model in one process."""
    results = run_on_ranks(num_ranks, clip_on_rank, DeviceMeshParameters(**mesh), held)

    whole = {index: each.whole_gradient(index) for index, each in enumerate(held)}
    expected = torch.cat([gradient.double().flatten() for gradient in whole.values()]).norm().item()
    assert {norm for norm, _ in results} == {results[0][0]}
    assert results[0][0] == pytest.approx(expected, rel=1e-6)
    clipped = {index: gradient for _, gradients in results for index, gradient in gradients.items()}
    assert expected > MAX_NORM
    factor = MAX_NORM / (expected + 1e-6)
    assert clipped.keys() == whole.keys()
    for index, gradient in whole.items():
        torch.testing.assert_close(clipped[index], (gradient.float() * factor).to(gradient.dtype))


@pytest.mark.parametrize("layout", ON_TWO)
def test_two_ranks_clip_by_the_norm_of_the_whole_model(layout: str) -> None:
    """Both ranks have the bit-identical norm, in which each gradient counts exactly once."""
    check_clipping(2, *ON_TWO[layout])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ON_FOUR)
def test_four_ranks_clip_by_the_norm_of_the_whole_model(layout: str) -> None:
    """The same holds on four ranks, for parameters on two-dimensional meshes and on different meshes."""
    check_clipping(4, *ON_FOUR[layout])


def measure_partial() -> float:
    """Measure the norm of a gradient with a `Partial` placement on two ranks."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(tensor_parallel=2))
    mesh = context.mesh_for("dense")["tensor_parallel"]
    parameter = nn.Parameter(distribute_tensor(torch.zeros(2), mesh, [Replicate()]))
    parameter.grad = DTensor.from_local(torch.tensor([1.0, 2.0]), mesh, [Partial()])
    return GradientNorm([parameter], context).measure().item()


def test_partial_gradients_are_summed_before_the_norm_is_measured() -> None:
    """The norm of a `Partial` gradient is that of the sum over the ranks."""
    assert run_on_ranks(2, measure_partial) == [pytest.approx(20**0.5)] * 2


def measure_extremes() -> list[float]:
    """Measure gradients whose squares overflow fp32, and gradients that are not finite on only one rank."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    mesh = context.mesh_for("dense")["data_parallel_shard"]
    norms = []
    for gradient in ([3e25, 4e25], [1.0, float("nan")], [float("inf"), 1.0]):
        parameter = nn.Parameter(distribute_tensor(torch.zeros(2), mesh, [Shard(0)]))
        parameter.grad = distribute_tensor(torch.tensor(gradient), mesh, [Shard(0)])
        norms.append(GradientNorm([parameter], context).measure().item())
    return norms


def test_all_ranks_see_non_finite_gradients_of_one_rank() -> None:
    """Infinity and NaN on one rank reach the norm of every rank; large finite gradients do not overflow."""
    for large, nan, infinite in run_on_ranks(2, measure_extremes):
        assert large == pytest.approx(5e25)
        assert nan != nan  # noqa: PLR0124 -- only NaN differs from itself
        assert infinite == float("inf")


GRADIENTS = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=5)


def parameters_of(drawn: list[tuple[int, int, int]], *dtypes: torch.dtype) -> list[nn.Parameter]:
    """Create parameters with random gradients, whose dtypes alternate."""
    parameters = []
    for index, (seed, *shape) in enumerate(drawn):
        dtype = dtypes[index % len(dtypes)]
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        parameters.append(nn.Parameter(torch.zeros_like(gradient)))
        parameters[-1].grad = gradient
    return parameters


@settings(deadline=None)
@given(GRADIENTS, st.sampled_from([torch.float32, torch.float64]), st.floats(1e-3, 10))
def test_one_process_clips_as_torch_does(
    drawn: list[tuple[int, int, int]], dtype: torch.dtype, max_norm: float
) -> None:
    """On one process, norm and clipped gradients are bit-identical to those of `clip_grad_norm_`."""
    ours, theirs = parameters_of(drawn, dtype), parameters_of(drawn, dtype)

    norm = GradientNorm(ours, ALONE).measure()
    clip_gradients(ours, norm, max_norm)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm)

    assert torch.equal(norm, expected)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=0, atol=0)


@settings(deadline=None)
@given(GRADIENTS, st.sampled_from([(torch.bfloat16,), (torch.bfloat16, torch.float32), (torch.float16,)]))
def test_norms_of_16_bit_gradients_are_computed_in_fp32(
    drawn: list[tuple[int, int, int]], dtypes: tuple[torch.dtype, ...]
) -> None:
    """The norm of 16-bit gradients, alone or mixed with fp32 ones, is an accurate fp32 number."""
    parameters = parameters_of(drawn, *dtypes)
    whole = torch.cat([parameter.grad.double().flatten() for parameter in parameters if parameter.grad is not None])

    norm = GradientNorm(parameters, ALONE).measure()

    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(whole.norm().item(), rel=1e-5)


def without_gradients() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize("make", [list, without_gradients])
def test_the_norm_of_a_model_without_gradients_is_zero(make: Callable[[], list[nn.Parameter]]) -> None:
    """Without parameters, or with parameters that have no gradient, the norm is zero."""
    assert GradientNorm(make(), ALONE).measure().item() == 0.0
