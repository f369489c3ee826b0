"""A copy of the state of a job on the host, taken without making the host wait for the device."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch.distributed.tensor import DTensor

from d9d.core.device import copy_to_host, empty_on_host, has_streams
from d9d.loop.component.data import list_tensors, map_tensors

# The start of each tensor in a block: the size of a cache line.
_ALIGNMENT = 64
# A block is not larger than this, unless one tensor is.
_LARGEST_BLOCK = 2**30
# What is left at the end is not divided into blocks smaller than this.
_SMALLEST_BLOCK = 2**20

_Layout: TypeAlias = tuple[torch.Size, torch.dtype, tuple[int, ...]]


class HostSnapshot:
    """Copies state to memory on the host, which is reused from one copy to the next.

    The host does not wait for an accelerator: copies are queued with its other work, so later steps do not change them.
    """

    def __init__(self) -> None:
        self._memory = HostMemory()
        self._copies: list[torch.Tensor] = []
        self._events: list[torch.Event] = []

    def reserve(self, state: Any) -> None:
        """Allocate the memory for state, so that the first copy of it need not. That can take seconds.

        Args:
            state: The state, or the large part of it.
        """
        if not self._copies:
            self._memory.reserve([_local(tensor) for tensor in list_tensors(state)])

    def take(self, state: Any) -> Any:
        """Copy state; the previous copy is overwritten.

        Args:
            state: As for `split_state`; of a `DTensor` the local shard is copied.

        Returns:
            The copy, which may be read after `wait` has returned.
        """
        if not self._copies:
            self._memory.reserve([_local(tensor) for tensor in list_tensors(state)])
        previous = iter(self._copies)
        copies: list[torch.Tensor] = []
        devices: set[torch.device] = set()

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            devices.add(tensor.device)
            copies.append(_copy_again(tensor.detach(), next(previous, None), self._memory.take))
            return copies[-1]

        copied = map_tensors(state, copy)
        self._copies = copies
        streams = [torch.accelerator.current_stream(device) for device in devices if has_streams(device)]
        self._events = [stream.record_event() for stream in streams]
        return copied

    def wait(self) -> None:
        """Wait until the last copy is complete."""
        for event in self._events:
            event.synchronize()


def _copy_again(
    tensor: torch.Tensor, previous: torch.Tensor | None, allocate: Callable[[torch.Tensor], torch.Tensor | None]
) -> torch.Tensor:
    """Copy a tensor to the host, into the previous copy if that has the same layout."""
    if isinstance(tensor, DTensor):
        if isinstance(previous, DTensor) and previous._spec == tensor._spec:  # noqa: SLF001 -- torch compares by it too
            copy_to_host(tensor.to_local(), out=previous.to_local())
            return previous
        copied = copy_to_host(tensor.to_local(), out=allocate(tensor.to_local()))
        # `from_local` would move the copy back to the device of the mesh.
        return DTensor(copied, tensor._spec, requires_grad=False)  # type: ignore[no-untyped-call] # noqa: SLF001
    if type(previous) is type(tensor) and _layout(previous) == _layout(tensor):
        return copy_to_host(tensor, out=previous)
    return copy_to_host(tensor, out=allocate(tensor))


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _layout(tensor: torch.Tensor) -> _Layout:
    """Return what the memory of a copy depends on."""
    # A copy of an expanded tensor is not expanded; that of any other has the same strides.
    return tensor.shape, tensor.dtype, torch.empty_like(tensor, device="meta").stride()


class HostMemory:
    """Memory on the host for copies of many tensors, in a few blocks.

    torch rounds each allocation of pinned memory up to a power of two, on average by more than a third. These blocks
    are powers of two themselves and are filled, so that little is lost.
    """

    def __init__(self) -> None:
        self._free: dict[_Layout, list[torch.Tensor]] = {}

    def reserve(self, tensors: Sequence[torch.Tensor]) -> None:
        """Allocate memory for copies of tensors, besides what is free already.

        Args:
            tensors: Plain tensors. Those of other layouts than strided ones are allocated when they are copied.
        """
        free = {layout: len(copies) for layout, copies in self._free.items()}
        missing = []
        for tensor in tensors:
            if tensor.layout != torch.strided:
                continue
            layout = _layout(tensor)
            if free.get(layout, 0):
                free[layout] -= 1
            else:
                missing.append((layout, tensor))
        device = next((tensor.device for _, tensor in missing if has_streams(tensor.device)), torch.device("cpu"))
        for block in divide_into_blocks([_num_bytes(tensor) for _, tensor in missing]):
            memory = empty_on_host(block.num_bytes, torch.uint8, device).untyped_storage()
            for number, offset in block.offsets.items():
                layout, tensor = missing[number]
                shape, dtype, stride = layout
                # Its own part of the storage: torch would write the whole storage of a view into a checkpoint.
                part = memory[offset : offset + tensor.numel() * dtype.itemsize]
                copy = torch.empty(0, dtype=dtype).set_(part, 0, shape, stride)
                self._free.setdefault(layout, []).append(copy)

    def take(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Take memory for the copy of a tensor.

        Args:
            tensor: The tensor.

        Returns:
            A tensor on the host with the same shape, dtype and strides; `None` if a copy has to allocate it.
        """
        if tensor.layout != torch.strided:
            return None
        free = self._free.get(_layout(tensor))
        return free.pop() if free else None


def _num_bytes(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.itemsize // _ALIGNMENT) * _ALIGNMENT


class Block:
    """A block of memory.

    Attributes:
        num_bytes: Its size: a power of two.
        offsets: Where in it each part starts, by the number of the part.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.offsets: dict[int, int] = {}
        self._used = 0

    def add(self, number: int, num_bytes: int) -> bool:
        """Add a part, and return whether there was room for it."""
        if self._used + num_bytes > self.num_bytes:
            return False
        self.offsets[number] = self._used
        self._used += num_bytes
        return True


def divide_into_blocks(sizes: Sequence[int]) -> Iterator[Block]:
    """Divide memory into blocks whose sizes are powers of two, the largest parts first.

    Args:
        sizes: The size of each part in bytes.

    Yields:
        Each block with the parts in it.
    """
    remaining = sorted((number for number, size in enumerate(sizes) if size), key=lambda number: -sizes[number])
    while remaining:
        total = sum(sizes[number] for number in remaining)
        # At most what is needed, so that all blocks but the last are filled.
        num_bytes = min(2 ** (total.bit_length() - 1), _LARGEST_BLOCK)
        if num_bytes < _SMALLEST_BLOCK:
            num_bytes = 2 ** (total - 1).bit_length()
        block = Block(max(num_bytes, 2 ** (sizes[remaining[0]] - 1).bit_length()))
        remaining = [number for number in remaining if not block.add(number, sizes[number])]
        yield block
