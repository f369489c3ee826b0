"""What a process holds of the gradients, ready for torch's operations on many tensors at once."""

import collections
from collections.abc import Iterable

import torch
from torch import nn

from d9d.core.sharding import is_dtensor


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[list[torch.Tensor]]:
    """Return the gradients, each as the tensor that this process holds of it.

    What is done to them in place is done to the gradients: with a number that all processes share, for each sharded or
    replicated tensor on any mesh. `torch._foreach_…` itself takes neither several meshes nor a `DTensor` beside plain
    tensors, and is fast only where all tensors have one device and number format.

    Args:
        parameters: Those without a gradient are passed over.

    Returns:
        The tensors, in a group for each device and number format.
    """
    groups: collections.defaultdict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = collections.defaultdict(
        list
    )
    with torch.no_grad():
        for gradient in [parameter.grad for parameter in parameters]:
            if gradient is not None:
                tensor = gradient.to_local() if is_dtensor(gradient) else gradient
                groups[tensor.device, tensor.dtype].append(tensor)
    return list(groups.values())
