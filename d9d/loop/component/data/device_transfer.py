"""Batches on their way to the device."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from d9d.loop.component.tensor_tree import map_tensors

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


@dataclasses.dataclass(frozen=True)
class _Transfer:
    """A micro-batch whose tensors are still on their way.

    Attributes:
        batch: The micro-batch on the device.
        tensors: Its tensors.
        arrival: Happens on the device once they are there.
    """

    batch: Any
    tensors: list[torch.Tensor]
    arrival: torch.Event


class DeviceTransfer:
    """Moves the micro-batches of a step to the device, each while those before it are computed.

    On an accelerator copies run on a stream of their own. The host waits for none of them; the stream of the
    computations waits for each micro-batch right before it is used.

    Args:
        device: Where the micro-batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device) if takes_pinned_memory(device) else None

    def move(self, micro_batches: Iterable[Any]) -> Iterable[Any]:
        """Send the micro-batches of a step on their way, all of them at once.

        Args:
            micro_batches: What the data loader yielded.

        Returns:
            The micro-batches on the device; to be used one after the other, in the stream that is current when each is
            taken.
        """
        if self._stream is None:
            return [move_to_device(micro_batch, self._device) for micro_batch in micro_batches]
        with self._stream as stream:
            transfers = [self._send(micro_batch, stream) for micro_batch in micro_batches]
        return self._receive(transfers)

    def _send(self, micro_batch: Any, stream: torch.Stream) -> _Transfer:
        tensors: list[torch.Tensor] = []

        def send(tensor: torch.Tensor) -> torch.Tensor:
            tensors.append(tensor.to(self._device, non_blocking=True))
            return tensors[-1]

        batch = map_tensors(micro_batch, send)
        return _Transfer(batch, tensors, stream.record_event())

    def _receive(self, transfers: list[_Transfer]) -> Iterator[Any]:
        for transfer in transfers:
            stream = torch.accelerator.current_stream(self._device)
            stream.wait_event(transfer.arrival)
            for tensor in transfer.tensors:
                # Their memory belongs to the stream of the copies, which would use it again once the host lets go of
                # them, though the computations that read them may not have run by then.
                tensor.record_stream(stream)
            yield transfer.batch
