"""The state of a moment, copied to the host so that the loop can go on while it is written."""

from typing import Any

import torch

from d9d.core.sharding import is_dtensor
from d9d.loop.component.report.host_copy import has_streams
from d9d.loop.component.tensor_tree import map_tensors


class HostSnapshot:
    """Copies a state, again and again, into memory on the host that is kept from one time to the next.

    Nothing waits for an accelerator: its copies go into pinned memory, in the order of its other work, so that the
    steps after them change nothing in what is copied.
    """

    def __init__(self) -> None:
        self._rooms: list[torch.Tensor] = []
        self._copied: list[torch.Event] = []

    def take(self, state: Any) -> Any:
        """Copy a state; the one that was copied before is overwritten.

        Args:
            state: As for `split_state`; parts of `DTensor`s are copied where they are.

        Returns:
            A state of the same kind, which can be read once `wait` has returned.
        """
        known = iter(self._rooms)
        rooms: list[torch.Tensor] = []
        devices: set[torch.device] = set()

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            devices.add(tensor.device)
            rooms.append(_copied(tensor.detach(), next(known, None)))
            return rooms[-1]

        copied = map_tensors(state, copy)
        self._rooms = rooms
        streams = [torch.accelerator.current_stream(device) for device in devices if has_streams(device)]
        self._copied = [stream.record_event() for stream in streams]
        return copied

    def wait(self) -> None:
        """Wait until the last copy is complete."""
        for event in self._copied:
            event.synchronize()


def _copied(tensor: torch.Tensor, room: torch.Tensor | None) -> torch.Tensor:
    non_blocking = has_streams(tensor.device)
    if room is not None and _fits(room, tensor):
        _local(room).copy_(_local(tensor), non_blocking=non_blocking)
        return room
    # To the CPU without blocking means into pinned memory; what is on the CPU would not be copied at all.
    return tensor.clone() if tensor.device.type == "cpu" else tensor.to("cpu", non_blocking=non_blocking)


def _fits(room: torch.Tensor, tensor: torch.Tensor) -> bool:
    if (type(room), room.shape, room.dtype) != (type(tensor), tensor.shape, tensor.dtype):
        return False
    if is_dtensor(room) and is_dtensor(tensor):
        return room.device_mesh == tensor.device_mesh and room.placements == tensor.placements
    return True


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor
