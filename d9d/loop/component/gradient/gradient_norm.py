"""The L2 norm over all gradients of a job."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn

from d9d.core.dist_context import DistributedContext
from d9d.core.sharding import is_dtensor
from d9d.loop.component.gradient.local_gradients import local_gradients

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement

_HALF_PRECISION = frozenset({torch.float16, torch.bfloat16})


class GradientNorm:
    """Measures all gradients of a job as if they were one vector.

    Each process adds up the squares of what it is the first to hold, and one sum over all processes does the rest: it
    brings the shards of all meshes and the stages of a pipeline together, counts nothing twice, and gives every process
    the same bits. What is not finite on any process makes the norm so. `torch.nn.utils.clip_grad_norm_` takes neither
    several meshes nor a `DTensor` beside plain tensors.

    A plain tensor counts as the same on all processes that hold the same stage, and once; what is divided between
    processes must be a `DTensor`. A parameter that two stages hold counts once in each.

    Args:
        parameters: What this process holds of the model, possibly nothing.
        dist_context: The processes of the job.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], dist_context: DistributedContext) -> None:
        self._parameters = parameters
        self._device = dist_context.device
        self._is_alone = dist_context.world_size == 1
        self._rank = dist_context.rank
        self._first_rank = 0 if self._is_alone else _first_rank_of_stage(dist_context)
        self._counted: dict[tuple[DeviceMesh, tuple[Placement, ...]], bool] = {}

    @torch.no_grad()
    def measure(self) -> torch.Tensor:
        """Return the norm, a scalar on the device, without waiting for it; every process must call this.

        Gradients of 16 bits are added up in fp32. A process alone gets what `torch.nn.utils.get_total_norm` returns for
        others, bit for bit; several get it in fp32, from a sum of squares in fp64, whose range they cannot leave.
        """
        if self._is_alone:
            return self._norm_of(self._parameters)
        for parameter in self._parameters:
            _reduce_partial(parameter)
        counted: list[nn.Parameter] = []
        copies: list[nn.Parameter] = []
        for parameter in self._parameters:
            (counted if self._is_counted_here(parameter.grad) else copies).append(parameter)
        # Copies add nothing, unless they are not finite: the others have to know, and zero times infinity is NaN.
        square = self._norm_of(counted).double().square() + self._norm_of(copies).double() * 0.0
        distributed.all_reduce(square)
        return square.sqrt().float()

    def _norm_of(self, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        norms: list[torch.Tensor] = []
        for group in local_gradients(parameters):
            dtype = torch.float32 if group[0].dtype in _HALF_PRECISION else None
            # `torch.nn.utils.get_total_norm` does this, and passes on no number format.
            of_group = torch._foreach_norm(group, 2.0, dtype=dtype)  # noqa: SLF001 -- no other takes one
            is_here = group[0].device == self._device  # FSDP may offload gradients to the host
            norms.extend(of_group if is_here else (norm.to(self._device) for norm in of_group))
        if not norms:
            return torch.zeros((), device=self._device)
        total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

    def _is_counted_here(self, gradient: torch.Tensor | None) -> bool:
        """Say whether this process is the first, of those with the same stage, that holds its part of a gradient."""
        if not is_dtensor(gradient):
            return self._rank == self._first_rank
        key = (gradient.device_mesh, gradient.placements)
        if key not in self._counted:
            mesh, placements = key
            coordinate = mesh.get_coordinate() or ()
            # Beside this mesh may lie others with the same gradient, as along a dimension that does not divide it.
            self._counted[key] = self._first_rank in mesh.mesh.flatten().tolist() and all(
                index == 0 for index, placement in zip(coordinate, placements, strict=True) if placement.is_replicate()
            )
        return self._counted[key]


def _first_rank_of_stage(dist_context: DistributedContext) -> int:
    """Return the lowest rank among the processes that hold the same stages as this one."""
    ranks = dist_context.mesh_for("dense").mesh  # the dimension of the pipeline comes first
    return int(ranks[dist_context.pipeline_rank].min())


def _reduce_partial(parameter: nn.Parameter) -> None:
    """Add up a gradient of which each process still holds a summand: such parts have no norm of their own."""
    gradient = parameter.grad
    if is_dtensor(gradient) and any(placement.is_partial() for placement in gradient.placements):
        from torch.distributed.tensor import Replicate  # noqa: PLC0415 -- see d9d.core.sharding

        placements = [Replicate() if placement.is_partial() else placement for placement in gradient.placements]
        parameter.grad = gradient.redistribute(placements=placements)
