"""What torch has divided or copied over processes, told without loading the parts of torch that do it.

Loading them takes longer than loading all else, and a process in which nobody did holds nothing of theirs.
"""

import sys
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def is_dtensor(value: object) -> "TypeIs[DTensor]":
    """Say whether a value is a `DTensor`.

    Args:
        value: Anything, mostly a tensor.

    Returns:
        True for whatever is distributed over a mesh.
    """
    return _is_instance(value, "torch.distributed.tensor", "DTensor")


def is_fsdp_module(module: object) -> "TypeIs[FSDPModule]":
    """Say whether `fully_shard` was applied to a module.

    Args:
        module: A module itself, not its parts.

    Returns:
        True where FSDP gathers and divides its parameters.
    """
    return _is_instance(module, "torch.distributed.fsdp", "FSDPModule")


def is_composed_replica(module: nn.Module) -> bool:
    """Say whether `replicate` of torch's composable interface was applied to a module, in its form over DDP.

    Args:
        module: A module itself, not its parts.

    Returns:
        False for its newer form, which is FSDP's.
    """
    contract: Any = sys.modules.get("torch.distributed._composable.contract")
    # Torch offers no other way to see what was applied.
    return contract is not None and "replicate" in (contract._get_registry(module) or {}) and not is_fsdp_module(module)  # noqa: SLF001 -- see above


def _is_instance(value: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)
