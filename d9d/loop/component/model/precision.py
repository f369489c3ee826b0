"""The number format in which forward passes and losses are computed."""

from contextlib import AbstractContextManager, nullcontext

import torch

from d9d.loop.config import Precision

_NULL = nullcontext()


class ForwardPrecision:
    """Makes the context of forward passes and losses.

    Args:
        precision: The number format: that of the weights, or `torch.autocast` to bfloat16.
        device: Where the model runs.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._is_autocast = precision == "bf16-autocast"
        self._device_type = device.type

    def context(self) -> AbstractContextManager[object]:
        """Make the context, to be entered once."""
        if self._is_autocast:
            return torch.autocast(self._device_type, dtype=torch.bfloat16)
        return _NULL
