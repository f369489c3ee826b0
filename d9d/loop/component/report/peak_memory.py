"""The memory that a device has used."""

from collections.abc import Callable
from typing import Self

import torch

from d9d.core.metric import Reduction
from d9d.core.metric.accumulation import accumulation_dtype


class PeakMemory:
    """The most memory that tensors have taken on any device of the job, since the processes began; in bytes.

    Args:
        device: The device of this process.
        measure: Returns its memory, without waiting for it.
    """

    reduction: Reduction = "max"

    def __init__(self, device: torch.device, measure: Callable[[torch.device], int]) -> None:
        self._device = device
        self._measure = measure

    @classmethod
    def of(cls, device: torch.device) -> Self | None:
        """Return that of a device.

        Args:
            device: The device.

        Returns:
            The metric; `None` for devices that do not count their memory, as the CPU.
        """
        if device.type in {"cpu", "meta"}:
            return None
        measure = getattr(torch.get_device_module(device), "max_memory_allocated", None)
        return None if measure is None else cls(device, measure)

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        num_bytes = self._measure(self._device)
        return torch.full((1,), num_bytes, dtype=accumulation_dtype(self._device), device=self._device)

    def compute(self, reduced: torch.Tensor, /) -> float:  # noqa: D102 -- inherited
        return reduced.item()

    def reset(self) -> None:
        """Do nothing: others may ask the device for its peak as well."""
