"""The norm over all gradients of a job is that of the whole model in one process, on every rank alike."""

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
from d9d.loop.component.gradients import GradientClipper, GradientNorm

MAX_NORM = 3.0
ALONE = DistributedContext(device=torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Held:
    """How the processes hold one parameter.

    Attributes:
        shape: Of the whole.
        mesh: The view of the processes whose `dimensions` divide or replicate it; without any, it is a plain tensor.
        dimensions: Of the mesh.
        placements: One for each dimension.
        stage: The rank in the pipeline that holds it.
        dtype: Its number format.
    """

    shape: tuple[int, ...]
    dimensions: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()
    mesh: MeshName = "dense"
    stage: int = 0
    dtype: torch.dtype = torch.float32

    def whole_gradient(self, index: int) -> torch.Tensor:
        """Draw the gradient, the same on every rank."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(index)).to(self.dtype)

    def place(self, index: int, context: DistributedContext) -> nn.Parameter:
        """Make the parameter, and its gradient, as this process holds it."""
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
PLAIN = Held((7,))

ON_TWO = {
    "replicate": ({"data_parallel_replicate": 2}, [PLAIN, Held((4, 2))]),
    "fsdp beside plain": ({"data_parallel_shard": 2}, [Held((5, 3), *FSDP), PLAIN, Held((1, 2), *FSDP)]),
    "hsdp of one shard": ({"data_parallel_replicate": 2}, [Held((5, 3), *HSDP), PLAIN]),
    "tensor parallel beside fsdp": ({"tensor_parallel": 2}, [Held((4, 6), *TP), Held((4, 2), *FSDP), PLAIN]),
    "experts": (
        {"data_parallel_shard": 2, "expert_parallel": 2},
        [Held((4, 3), *FSDP), Held((2, 3, 3), *EXPERT, mesh="expert"), PLAIN],
    ),
    "experts that are replicated": (
        {"data_parallel_shard": 2},
        [Held((4, 3), *FSDP), Held((2, 3, 3), *HSDP_EXPERT, mesh="expert"), PLAIN],
    ),
    "stages": ({"pipeline_parallel": 2}, [Held((4, 3)), Held((5, 3), stage=1), Held((2,), stage=1)]),
    "a stage with no parameters": ({"pipeline_parallel": 2}, [Held((4, 3), stage=1)]),
    "numbers of 16 bits": (
        {"data_parallel_shard": 2},
        [Held((301, 7), *FSDP, dtype=torch.bfloat16), Held((99,), dtype=torch.bfloat16), Held((5, 3), *FSDP)],
    ),
}
ON_FOUR = {
    "hsdp": ({"data_parallel_replicate": 2, "data_parallel_shard": 2}, [Held((5, 3), *HSDP), PLAIN]),
    "fsdp and tensor parallel": (
        {"data_parallel_shard": 2, "tensor_parallel": 2},
        [
            Held((6, 4), ("data_parallel_shard", "tensor_parallel"), (Shard(0), Shard(1))),
            Held((6, 4), ("data_parallel_shard", "tensor_parallel"), (Shard(0), Replicate())),
            Held((5, 3), *FSDP),
            Held((4, 6), *TP),
            PLAIN,
        ],
    ),
    "stages and fsdp": (
        {"pipeline_parallel": 2, "data_parallel_shard": 2},
        [Held((5, 3), *FSDP), PLAIN, Held((6, 3), *FSDP, stage=1), Held((9,), stage=1)],
    ),
    "experts on a slice": (
        {"data_parallel_shard": 4, "expert_parallel": 2},
        [Held((4, 3, 3), *EXPERT, mesh="expert"), Held((4, 3), *HSDP_EXPERT, mesh="expert"), Held((9, 3), *FSDP)],
    ),
    "stages, experts and tensor parallel": (
        {"pipeline_parallel": 2, "tensor_parallel": 2},
        [Held((4, 6), *TP), Held((6, 2), *FSDP, stage=1), Held((4, 3), *EXPERT, mesh="expert", stage=1), PLAIN],
    ),
}


def clip_on_rank(parameters: DeviceMeshParameters, held: list[Held]) -> tuple[float, dict[int, torch.Tensor]]:
    """Clip on one rank, and return the norm before with what each gradient became as a whole."""
    context = DistributedContext.start("cpu", parameters)
    placed = {
        index: each.place(index, context) for index, each in enumerate(held) if each.stage == context.pipeline_rank
    }
    norm = GradientClipper(list(placed.values()), MAX_NORM, context).clip()
    assert norm is not None
    assert norm.dtype == torch.float32
    gradients = {index: parameter.grad for index, parameter in placed.items()}
    return norm.item(), {
        index: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        for index, gradient in gradients.items()
        if gradient is not None
    }


def check_clipping(num_ranks: int, mesh: dict[str, int], held: list[Held]) -> None:
    """Compare all ranks with the whole in one process."""
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
def test_two_ranks_measure_and_clip_the_whole(layout: str) -> None:
    """On every rank the same bits, and nothing counted twice or left out."""
    check_clipping(2, *ON_TWO[layout])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ON_FOUR)
def test_four_ranks_measure_and_clip_the_whole(layout: str) -> None:
    """Where meshes have two dimensions, and lie beside one another."""
    check_clipping(4, *ON_FOUR[layout])


def measure_summands() -> float:
    """Measure a gradient of which each of two ranks holds a summand."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(tensor_parallel=2))
    mesh = context.mesh_for("dense")["tensor_parallel"]
    parameter = nn.Parameter(distribute_tensor(torch.zeros(2), mesh, [Replicate()]))
    parameter.grad = DTensor.from_local(torch.tensor([1.0, 2.0]), mesh, [Partial()])
    return GradientNorm([parameter], context).measure().item()


def test_summands_are_added_before_they_are_measured() -> None:
    """The norm of a sum is not that of its parts."""
    assert run_on_ranks(2, measure_summands) == [pytest.approx(20**0.5)] * 2


def measure_extremes() -> list[float]:
    """Measure gradients whose squares leave the range of fp32, and some of which only one rank knows that they are."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    mesh = context.mesh_for("dense")["data_parallel_shard"]
    norms = []
    for gradient in ([3e25, 4e25], [1.0, float("nan")], [float("inf"), 1.0]):
        parameter = nn.Parameter(distribute_tensor(torch.zeros(2), mesh, [Shard(0)]))
        parameter.grad = distribute_tensor(torch.tensor(gradient), mesh, [Shard(0)])
        norms.append(GradientNorm([parameter], context).measure().item())
    return norms


def test_what_one_rank_has_all_know() -> None:
    """Infinity and NaN reach every rank; large numbers do not become infinite on the way."""
    for large, nan, infinite in run_on_ranks(2, measure_extremes):
        assert large == pytest.approx(5e25)
        assert nan != nan  # noqa: PLR0124 -- what NaN is known by
        assert infinite == float("inf")


GRADIENTS = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=5)


def parameters_of(drawn: list[tuple[int, int, int]], *dtypes: torch.dtype) -> list[nn.Parameter]:
    """Make parameters with random gradients, of the number formats in turn."""
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
    """Bit for bit."""
    ours, theirs = parameters_of(drawn, dtype), parameters_of(drawn, dtype)

    norm = GradientClipper(ours, max_norm, ALONE).clip()
    expected = nn.utils.clip_grad_norm_(theirs, max_norm)

    assert norm is not None
    assert torch.equal(norm, expected)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=0, atol=0)


@settings(deadline=None)
@given(GRADIENTS, st.sampled_from([(torch.bfloat16,), (torch.bfloat16, torch.float32), (torch.float16,)]))
def test_short_numbers_are_added_up_in_fp32(drawn: list[tuple[int, int, int]], dtypes: tuple[torch.dtype, ...]) -> None:
    """Alone and beside long ones."""
    parameters = parameters_of(drawn, *dtypes)
    whole = torch.cat([parameter.grad.double().flatten() for parameter in parameters if parameter.grad is not None])

    norm = GradientNorm(parameters, ALONE).measure()

    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(whole.norm().item(), rel=1e-5)


def without_gradients() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize("make", [list, without_gradients])
def test_nothing_has_the_norm_zero(make: Callable[[], list[nn.Parameter]]) -> None:
    """A model without gradients is measured all the same."""
    assert GradientNorm(make(), ALONE).measure().item() == 0.0


def test_nothing_is_measured_that_nobody_wants() -> None:
    """Without a bound there is no norm, unless somebody asks for it; the gradients stay as they are."""
    (parameter,) = parameters_of([(0, 3, 2)], torch.float32)
    assert parameter.grad is not None
    before = parameter.grad.clone()

    assert GradientClipper([parameter], None, ALONE).clip() is None
    norm = GradientClipper([parameter], None, ALONE, always_measure=True).clip()

    assert norm is not None
    assert norm.item() == pytest.approx(before.norm().item())
    assert torch.equal(parameter.grad, before)
