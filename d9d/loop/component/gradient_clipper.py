"""The bound on the gradients of a step."""

from collections.abc import Sequence

import torch
from torch import nn


class GradientClipper:
    """Scales the gradients down where their norm over all parameters is larger than a bound.

    Args:
        parameters: The parameters whose gradients are bounded.
        max_norm: The largest L2 norm; `None` leaves all gradients as they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_norm: float | None) -> None:
        self._parameters = parameters
        self._max_norm = max_norm

    def clip(self) -> torch.Tensor | None:
        """Clip the gradients in place, without waiting for the device.

        Returns:
            Their norm before that, a scalar; `None` where there is no bound.
        """
        if self._max_norm is None:
            return None
        return torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
