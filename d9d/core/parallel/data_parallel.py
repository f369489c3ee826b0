"""How processes with samples of their own share one model, or hold copies of it."""

from collections.abc import Iterable
from typing import TypeAlias

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from d9d.core.dist_context import DistributedContext

Blocks: TypeAlias = type[nn.Module] | Iterable[nn.Module | type[nn.Module]]
"""Which modules of a model: their class, or several of these, or they themselves."""


def shard_data_parallel(
    module: nn.Module,
    dist_context: DistributedContext,
    *,
    blocks: Blocks = (),
    mixed_precision: MixedPrecisionPolicy | None = None,
) -> None:
    """Apply torch's FSDP2 to a model, in place, as the mesh of the job has it.

    Parameters are divided over `data_parallel_shard`, which reaches over `context_parallel` as well, and copied over
    `data_parallel_replicate`. With both this is HSDP; with copies alone, what DistributedDataParallel does. Where both
    are 1 nothing is done, unless `mixed_precision` asks for it: then numbers are rounded as with many processes.

    Call it after what divides matrices (`parallelize_module`) and experts (`shard_experts`).

    Args:
        module: The model, or a stage of one.
        dist_context: Has the mesh.
        blocks: Which of its modules are gathered, used and freed one after the other; all else is gathered at once.
            Their class or classes, or they themselves, such as an `nn.ModuleList`.
        mixed_precision: In which number formats the model computes, and adds gradients; by default in that of the
            parameters.
    """
    mesh = _mesh(dist_context)
    if mesh is None and mixed_precision is None:
        return
    mesh = mesh or dist_context.mesh_for("dense")["data_parallel_shard"]
    policy = mixed_precision or MixedPrecisionPolicy()
    # A shard of experts is in no other process, and nothing is to be exchanged.
    whole = {parameter for parameter in module.parameters() if _is_expert(parameter)}
    # Inner modules first and the model itself last: what a module has by then belongs to its own group.
    for block in reversed(_select(module, blocks)):
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
    fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=whole)


def _mesh(dist_context: DistributedContext) -> DeviceMesh | None:
    sizes = dist_context.mesh_parameters.shape_of("dense")
    if sizes["data_parallel_replicate"] > 1:
        return dist_context.mesh_for("dense")["data_parallel_replicate", "data_parallel_shard"]
    return dist_context.mesh_for("dense")["data_parallel_shard"] if sizes["data_parallel_shard"] > 1 else None


def _select(module: nn.Module, blocks: Blocks) -> list[nn.Module]:
    chosen = (blocks,) if isinstance(blocks, type) else tuple(blocks)
    kinds = tuple(one for one in chosen if isinstance(one, type))
    inner = [child for child in module.modules() if child is not module]
    return [child for child in inner if child in chosen or isinstance(child, kinds)]


def _is_expert(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, DTensor) and "expert_parallel" in (parameter.device_mesh.mesh_dim_names or ())
