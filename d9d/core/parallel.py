"""Common ways to parallelise a model over the processes of a job. torch's own functions work as well."""

from collections.abc import Iterable
from typing import TypeAlias

from torch import nn
from torch.distributed._composable.contract import _get_registry
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from d9d.core.dist_context import DistributedContext
from d9d.core.settings import ConfigurationError

__all__ = ["shard_data_parallel", "shard_experts"]


Blocks: TypeAlias = type[nn.Module] | Iterable[nn.Module | type[nn.Module]]
"""A selection of the modules of a model: a class, or several classes and modules."""


def shard_data_parallel(
    module: nn.Module,
    dist_context: DistributedContext,
    *,
    blocks: Blocks = (),
    mixed_precision: MixedPrecisionPolicy | None = None,
) -> None:
    """Apply torch's FSDP2 to a model, in place, along the data-parallel dimensions of the mesh.

    Parameters are sharded over `data_parallel_shard`, which includes `context_parallel` here, and replicated over
    `data_parallel_replicate`. With both this is HSDP; with replicas alone it is what DistributedDataParallel does. If
    both are 1 this does nothing, unless `mixed_precision` is set: then values are rounded as with many processes.

    Call it after `parallelize_module` (tensor parallelism) and `shard_experts`.

    Args:
        module: The model, or a stage of it.
        dist_context: Holds the mesh.
        blocks: The modules whose parameters are gathered and freed one block at a time, such as an `nn.ModuleList`, or
            their class or classes. All other parameters are gathered together.
        mixed_precision: The dtypes for computation and for reducing gradients; by default that of the parameters.
    """
    mesh = _mesh(dist_context)
    if mesh is None and mixed_precision is None:
        return
    mesh = mesh or dist_context.mesh_for("dense")["data_parallel_shard"]
    policy = mixed_precision or MixedPrecisionPolicy()
    # `shard_experts` takes care of these.
    experts = {parameter for parameter in module.parameters() if _is_expert(parameter)}
    # Inner modules first: fully_shard takes the parameters of a module that are in no group yet.
    for block in reversed(_select(module, blocks)):
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=experts)
    fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=experts)


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


def shard_experts(
    experts: nn.Module, dist_context: DistributedContext, *, mixed_precision: MixedPrecisionPolicy | None = None
) -> None:
    """Divide the experts of a layer over `expert_parallel`, in place.

    Each process gets consecutive experts: the parameters become DTensors, whose `to_local()` are the experts of this
    process. The layer must send each token to the process of its experts. The processes of `expert_replicate`, which
    have the same experts and other tokens, shard them with FSDP2. If `expert_parallel` is 1 this does nothing, and the
    experts are parameters like any other.

    Call it before `shard_data_parallel`, with the same `mixed_precision`.

    Args:
        experts: A module whose parameters are all stacked, `[experts, ...]`.
        dist_context: Holds the mesh.
        mixed_precision: The dtypes for computation and for reducing gradients; by default that of the parameters.

    Raises:
        ConfigurationError: If the number of experts is not divisible by `expert_parallel`.
    """
    sizes = dist_context.mesh_parameters.shape_of("expert")
    if sizes["expert_parallel"] == 1:
        return
    for owner_name, owner in experts.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            path = f"{owner_name}.{name}" if owner_name else name
            setattr(owner, name, _shard_expert(path, parameter, dist_context))
    if sizes["expert_replicate"] > 1 or mixed_precision is not None:
        mesh = dist_context.mesh_for("expert")["expert_replicate"]
        fully_shard(experts, mesh=mesh, mp_policy=mixed_precision or MixedPrecisionPolicy())


def _shard_expert(name: str, parameter: nn.Parameter, dist_context: DistributedContext) -> nn.Parameter:
    num_processes = dist_context.mesh_parameters.expert_parallel
    num_experts = parameter.shape[0] if parameter.ndim else 0
    if num_experts == 0 or num_experts % num_processes:
        fitting = [str(number) for number in range(1, num_experts + 1) if num_experts % number == 0]
        raise ConfigurationError(
            f"the parameter {name} has the shape {list(parameter.shape)}, whose first dimension must be the number of "
            f"experts, and a multiple of expert_parallel={num_processes}: "
            + (f"set expert_parallel to {' or '.join(fitting)}" if fitting else "stack the weights of the experts")
        )
    mesh = dist_context.mesh_for("expert")["expert_parallel"]
    # All processes have the same full weights, or have them on the meta device: nothing has to be sent.
    part = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
    return nn.Parameter(part, requires_grad=parameter.requires_grad)


def is_replicated_by_ddp(module: nn.Module) -> bool:
    """Return whether torch's composable `replicate` was applied to a module, in the version that is built on DDP.

    Args:
        module: The module itself; its children are not examined.

    Returns:
        False for the newer version of `replicate`, which is built on FSDP.
    """
    # torch has no public function that returns which composable functions were applied to a module.
    return "replicate" in (_get_registry(module) or {}) and not isinstance(module, FSDPModule)
