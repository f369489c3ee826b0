"""How much memory the tensors of a device take, at most."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d9d.loop.component.data import list_tensors


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators make while it is on, until nobody holds them any more.

    What an operator makes and gives back before it returns is not seen; it is the same whoever calls the operator.

    Args:
        device: The type of devices whose storages count.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._num_bytes = 0
        self._peak = 0

    def take_peak(self) -> int:
        """Return the most bytes at any time since this was called before."""
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

        def let_go(reference: object) -> None:
            del self._held[key]
            self._num_bytes -= num_bytes

        self._held[key] = weakref.ref(storage, let_go)
        self._num_bytes += num_bytes
        self._peak = max(self._peak, self._num_bytes)
