"""Measures the peak memory of the tensors on a device."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d9d.loop.component.data import list_tensors


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live storages that operators allocate while the mode is active.

    Memory that an operator allocates and frees before it returns is not counted; it does not depend on the caller.

    Args:
        device: The device type whose storages are counted.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._num_bytes = 0
        self._peak = 0

    def take_peak(self) -> int:
        """Return the peak since the last call, in bytes."""
        peak, self._peak = self._peak, self._num_bytes
        return peak

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = {id(tensor.untyped_storage()) for tensor in list_tensors((args, kwargs))}
        for tensor in list_tensors(outputs):
            storage = tensor.untyped_storage()
            if tensor.device.type == self._device and id(storage) not in given | self._held.keys():
                self._count(storage)
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = id(storage), storage.nbytes()

        def release(reference: object) -> None:
            del self._held[key]
            self._num_bytes -= num_bytes

        self._held[key] = weakref.ref(storage, release)
        self._num_bytes += num_bytes
        self._peak = max(self._peak, self._num_bytes)
