"""The loss of one step, gathered over its micro-batches and processes, and what it makes of the gradients."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import distributed, nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.gradient.local_gradients import local_gradients
from d9d.loop.control import ComputeLossResult

_HALF_PRECISION = frozenset({torch.float16, torch.bfloat16})


class GradientAccumulator:
    """Turns the gradients of weighted losses into those of their weighted mean over a step.

    With losses `l_i` and weights `w_i`, over all micro-batches of all processes, the step's loss is
    `sum(w_i * l_i) / sum(w_i)`. The denominator is known only after the last micro-batch, so it divides the gradients,
    once, at the end. All of it stays on the device.

    Args:
        parameters: All parameters of this process; those that are frozen now may be unfrozen later.
        dist_context: The processes that have a share of the step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], dist_context: DistributedContext) -> None:
        self._parameters = parameters
        self._device = dist_context.device
        self._group = dist_context.mesh_for("loss").get_group("loss") if dist_context.world_size > 1 else None
        self._loss_sum: torch.Tensor | None = None
        self._weight_sum: torch.Tensor | float = 0.0

    def weigh(self, result: ComputeLossResult) -> torch.Tensor:
        """Note one micro-batch.

        Args:
            result: Its loss and weight.

        Returns:
            The weighted loss, whose gradients are wanted.

        Raises:
            ValueError: If the loss is no scalar.
        """
        loss = result.loss
        if loss.ndim:
            raise ValueError(f"the loss has the shape {list(loss.shape)}: return its mean, a scalar, from compute_loss")
        if loss.dtype in _HALF_PRECISION:
            loss = loss.float()  # sums over many tokens leave the range or the precision of 16 bits
        loss = _weighted(loss, result.loss_weight)
        self._loss_sum = loss.detach() if self._loss_sum is None else self._loss_sum + loss.detach()
        self._weight_sum = self._weight_sum + result.loss_weight
        return loss

    def finish(self) -> torch.Tensor:
        """Turn the gathered gradients into those of the step's loss, and get ready for the next step.

        Returns:
            The loss of the step over all processes, a scalar on the device.

        Raises:
            RuntimeError: If no micro-batch was added.
        """
        loss, weight_sum = self._totals()
        divisor = _nonzero(weight_sum)
        self._loss_sum, self._weight_sum = None, 0.0
        if isinstance(divisor, torch.Tensor) or divisor != 1.0:
            for group in local_gradients(self._parameters):
                # The operation that torch's own optimizers and clipping use for all tensors at once.
                torch._foreach_div_(group, divisor)
            loss = loss / divisor
        return loss

    def discard(self, optimizer: OptimizerProtocol | None = None) -> None:
        """Forget what has been gathered, and all gradients, also of parameters that no optimizer holds.

        Args:
            optimizer: Forgets those of its parameters.
        """
        self._loss_sum, self._weight_sum = None, 0.0
        for parameter in self._parameters:
            parameter.grad = None
        if optimizer is not None:
            _zero_gradients(optimizer)

    def _totals(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Return the sums of weighted losses and of weights, over all processes."""
        if self._group is not None:
            # Processes that hold no last stage have no losses, and take part with zeros.
            sums = (0.0 if self._loss_sum is None else self._loss_sum, self._weight_sum)
            totals = torch.stack([torch.as_tensor(each, dtype=torch.float32, device=self._device) for each in sums])
            distributed.all_reduce(totals, group=self._group)
            return totals[0], totals[1]
        if self._loss_sum is None:
            raise RuntimeError("no micro-batch was added in this step: add one before finishing the step")
        return self._loss_sum, self._weight_sum


def _zero_gradients(optimizer: OptimizerProtocol) -> None:
    """Call `zero_grad`; torch's own puts a range for its profiler around this, which takes longer than all of it."""
    if getattr(optimizer.zero_grad, "__func__", None) is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in cast("torch.optim.Optimizer", optimizer).param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _weighted(loss: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """Weigh a loss, with zero to nothing: the mean over no token is NaN, and NaN times zero is NaN still."""
    if isinstance(weight, torch.Tensor):
        return torch.where(weight == 0, 0.0, loss) * weight
    if weight == 0:
        return loss.nan_to_num() * weight
    return loss if weight == 1.0 else loss * weight


def _nonzero(weight_sum: torch.Tensor | float) -> torch.Tensor | float:
    """Replace a sum of zero: a step in which nothing counts has gradients of zero, not of NaN."""
    if isinstance(weight_sum, torch.Tensor):
        weight_sum = weight_sum.float()
        return torch.where(weight_sum == 0, 1.0, weight_sum)
    return weight_sum or 1.0
