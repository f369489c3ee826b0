"""Batches on their way to the device."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from d9d.loop.component.tensor_tree import list_tensors, map_tensors

# Device types whose copies from the host are no faster from pinned memory, and leave no room for anything beside them.
_UNPINNED_DEVICE_TYPES = frozenset({"cpu", "meta", "mps"})


def takes_pinned_memory(device: torch.device) -> bool:
    """Say whether copies to a device run beside its computations if they come from pinned memory.

    Args:
        device: Where the copies go.

    Returns:
        False on a CPU, and wherever pinning gains nothing.
    """
    return device.type not in _UNPINNED_DEVICE_TYPES


def move_to_device(batch: Any, device: torch.device) -> Any:
    """Move all tensors of a batch to a device, without waiting where they come from pinned memory.

    Args:
        batch: Tensors in mappings, lists, tuples and dataclasses, at any depth; anything else stays as it is.
        device: Where the tensors go.

    Returns:
        A batch of the same structure.
    """

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.device == device else tensor.to(device, non_blocking=True)

    return map_tensors(batch, move)


class DeviceTransfer:
    """Moves the micro-batches of a step to the device, each when it is asked for.

    So there is room for one of them at a time. On an accelerator copies run on a stream of their own: the host, which
    is ahead of the device, sends a micro-batch while those before it are computed, and waits for none. The stream of
    the computations waits for each.

    Args:
        device: Where the micro-batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device) if takes_pinned_memory(device) else None

    def move(self, micro_batches: Iterable[Any]) -> Iterator[Any]:
        """Move micro-batches to the device, one after the other.

        Args:
            micro_batches: What the data loader yields.

        Returns:
            The micro-batches on the device; each to be used in the stream that is current when it is taken.
        """
        return map(self._move, micro_batches)

    def _move(self, micro_batch: Any) -> Any:
        if self._stream is None:
            return move_to_device(micro_batch, self._device)
        with self._stream:
            moved = move_to_device(micro_batch, self._device)
        computing = torch.accelerator.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in list_tensors(moved):
            # Their memory belongs to the stream of the copies, which would use it again once the host lets go of them,
            # though the computations that read them may not have run by then.
            tensor.record_stream(computing)
        return moved
