"""Common ways to spread a model over the processes of a job; torch's own functions work as well."""

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


def shard_experts(
    experts: nn.Module, dist_context: DistributedContext, *, mixed_precision: MixedPrecisionPolicy | None = None
) -> None:
    """Divide the experts of a layer over `expert_parallel`, in place.

    Each process then has successive experts: while `experts` runs, its parameters are DTensors, and their `to_local()`
    is those of this process. To bring it the tokens that are theirs is up to the layer. The processes of
    `expert_replicate`, which have the same experts and other tokens, share them as FSDP2 does. Where `expert_parallel`
    is 1 nothing is done: the experts are then parameters like any other.

    Call it before `shard_data_parallel`, on the same process group and with the same `mixed_precision`.

    Args:
        experts: A module with nothing but stacked parameters, `[experts, ...]`.
        dist_context: Has the mesh.
        mixed_precision: In which number formats the experts compute, and add gradients; by default in that of the
            parameters.

    Raises:
        ConfigurationError: If the experts do not divide.
    """
    sizes = dist_context.mesh_parameters.shape_of("expert")
    if sizes["expert_parallel"] == 1:
        return
    for owner_name, owner in experts.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            path = f"{owner_name}.{name}" if owner_name else name
            setattr(owner, name, _divide(path, parameter, dist_context))
    if sizes["expert_replicate"] > 1 or mixed_precision is not None:
        mesh = dist_context.mesh_for("expert")["expert_replicate"]
        fully_shard(experts, mesh=mesh, mp_policy=mixed_precision or MixedPrecisionPolicy())


def _divide(name: str, parameter: nn.Parameter, dist_context: DistributedContext) -> nn.Parameter:
    num_processes = dist_context.mesh_parameters.expert_parallel
    num_experts = parameter.shape[0] if parameter.ndim else 0
    if num_experts == 0 or num_experts % num_processes:
        fitting = [str(number) for number in range(1, num_experts + 1) if num_experts % number == 0]
        raise ConfigurationError(
            f"expert_parallel={num_processes} does not divide {name}, a parameter of shape {list(parameter.shape)} "
            f"whose first dimension is that of the experts: use {' or '.join(fitting) or 'stacked parameters'}"
        )
    mesh = dist_context.mesh_for("expert")["expert_parallel"]
    # All processes have the same full weights, or none yet: nothing need be sent.
    part = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
    return nn.Parameter(part, requires_grad=parameter.requires_grad)


def is_replicated_by_ddp(module: nn.Module) -> bool:
    """Return whether the composable `replicate` was applied to a module in the form that is built on DDP.

    Args:
        module: The module itself; its children are not looked at.

    Returns:
        False for the newer form of `replicate`, which is built on FSDP.
    """
    # Torch has no public way to ask which composable functions were applied to a module.
    return "replicate" in (_get_registry(module) or {}) and not isinstance(module, FSDPModule)


_WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})


def unwrapped_name(name: str) -> str:
    """Return the name that a module, parameter or buffer has without the wrappers around modules.

    Args:
        name: The name as torch has it, with the parts that `torch.compile` and activation checkpointing add.
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
