"""How processes divide the experts of a layer."""

from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from d9d.core.configuration import ConfigurationError
from d9d.core.dist_context import DistributedContext


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
