"""The gradients of one step, gathered over its micro-batches."""

from collections.abc import Sequence

import torch
from torch import nn

from d9d.loop.control import ComputeLossResult


class GradientAccumulator:
    """Gathers the gradients of the weighted mean loss over the micro-batches of a step.

    With losses `l_i` and weights `w_i` the step's loss is `sum(w_i * l_i) / sum(w_i)`. The denominator is known only
    after the last micro-batch, so it divides the gradients, once, at the end. All of it stays on the device.

    Args:
        parameters: The parameters whose gradients are gathered.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._loss_sum: torch.Tensor | None = None
        self._weight_sum: torch.Tensor | float = 0.0

    def add(self, result: ComputeLossResult) -> None:
        """Run the backward pass of one micro-batch.

        Args:
            result: Its loss and weight.
        """
        loss, weight = result.loss, result.loss_weight
        if isinstance(weight, torch.Tensor) or weight != 1.0:
            loss = loss * weight
        torch.autograd.backward(loss)
        self._loss_sum = loss.detach() if self._loss_sum is None else self._loss_sum + loss.detach()
        self._weight_sum = self._weight_sum + weight

    def finish(self) -> torch.Tensor:
        """Turn the gathered gradients into those of the step's loss, and get ready for the next step.

        Returns:
            The loss of the step, a scalar on the device.

        Raises:
            RuntimeError: If no micro-batch was added.
        """
        if self._loss_sum is None:
            raise RuntimeError("no micro-batch was added in this step: add one before finishing the step")
        loss, divisor = self._loss_sum, _nonzero(self._weight_sum)
        self._loss_sum, self._weight_sum = None, 0.0
        if isinstance(divisor, torch.Tensor) or divisor != 1.0:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            # The operation that torch's own optimizers and clipping use for all tensors at once.
            torch._foreach_div_(gradients, divisor)
            loss = loss / divisor
        return loss


def _nonzero(weight_sum: torch.Tensor | float) -> torch.Tensor | float:
    """Replace a sum of zero: a step in which nothing counts has gradients of zero, not of NaN."""
    if isinstance(weight_sum, torch.Tensor):
        return torch.where(weight_sum == 0, 1.0, weight_sum.float())
    return weight_sum or 1.0
