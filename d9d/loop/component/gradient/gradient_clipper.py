"""The bound on the gradients of a step."""

from collections.abc import Sequence

import torch
from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.loop.component.gradient.gradient_norm import GradientNorm
from d9d.loop.component.gradient.local_gradients import local_gradients

_EPSILON = 1e-6  # of `torch.nn.utils.clip_grad_norm_`


class GradientClipper:
    """Scales the gradients down where their norm over all parameters of the job is larger than a bound.

    Args:
        parameters: The parameters whose gradients are bounded.
        max_norm: The largest L2 norm; `None` leaves all gradients as they are.
        dist_context: The processes of the job.
        always_measure: Whether the norm is wanted even where there is no bound.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        max_norm: float | None,
        dist_context: DistributedContext,
        *,
        always_measure: bool = False,
    ) -> None:
        self._parameters = parameters
        self._max_norm = max_norm
        self._norm = GradientNorm(parameters, dist_context) if always_measure or max_norm is not None else None

    def clip(self) -> torch.Tensor | None:
        """Clip the gradients in place, without waiting for the device; every process must call this.

        Returns:
            Their norm before, a scalar on the device; `None` where nobody wants it.
        """
        if self._norm is None:
            return None
        norm = self._norm.measure()
        if self._max_norm is not None:
            self._scale(norm, self._max_norm)
        return norm

    @torch.no_grad()
    def _scale(self, norm: torch.Tensor, max_norm: float) -> None:
        # The formula of `torch.nn.utils.clip_grads_with_norm_`, which takes no tensors of several meshes.
        factor = torch.clamp(max_norm / (norm + _EPSILON), max=1.0)
        for group in local_gradients(self._parameters):
            torch._foreach_mul_(group, factor.to(group[0].device))
