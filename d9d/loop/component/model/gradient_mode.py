"""Running a model without gradients."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from d9d.core.sharding import is_fsdp_module


def without_gradients(modules: Sequence[nn.Module]) -> AbstractContextManager[object]:
    """Make the context in which no gradients are recorded.

    Args:
        modules: What runs in it. A sharded model gathers its weights into memory that must outlive the context, which
            tensors of `torch.inference_mode` do not.

    Returns:
        The context.
    """
    is_sharded = any(is_fsdp_module(module) for stage in modules for module in stage.modules())
    return torch.no_grad() if is_sharded else torch.inference_mode()
