"""Batches on their way to the device."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch


def move_to_device(batch: Any, device: torch.device) -> Any:
    """Move all tensors of a batch to a device, without waiting where they come from pinned memory.

    Args:
        batch: Tensors in mappings, lists, tuples and dataclasses, at any depth; anything else stays as it is.
        device: Where the tensors go.

    Returns:
        A batch of the same structure.
    """
    match batch:
        case torch.Tensor():
            return batch.to(device, non_blocking=True)
        case Mapping():
            return {key: move_to_device(value, device) for key, value in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(move_to_device(value, device) for value in batch))
        case list() | tuple():
            return type(batch)(move_to_device(value, device) for value in batch)
        case _ if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
            fields = (field.name for field in dataclasses.fields(batch) if field.init)
            return dataclasses.replace(batch, **{name: move_to_device(getattr(batch, name), device) for name in fields})
        case _:
            return batch
