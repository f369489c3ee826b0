"""The optimizer and the learning rate scheduler of whoever brings none."""

from typing import Any

import torch

from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.config import ConfigurationError
from d9d.loop.control import InitializeLRSchedulerContext, InitializeOptimizerContext


def adamw(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    """Build torch's AdamW over all parameters that want gradients, with torch's own defaults.

    Args:
        ctx: Holds the stages of the model.

    Returns:
        The optimizer, in its fused form, which runs on every kind of device.

    Raises:
        ConfigurationError: If no parameter wants any.
    """
    parameters = [parameter for parameter in ctx.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigurationError("the model has no parameter that requires gradients: there is nothing to train")
    return torch.optim.AdamW(parameters, fused=True)


class ConstantLRScheduler:
    """Leaves the learning rate as the optimizer has it."""

    def step(self) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take nothing back."""


def constant_lr(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    """Build a scheduler that leaves the learning rate as it is.

    Args:
        ctx: Unused.

    Returns:
        The scheduler.
    """
    del ctx
    return ConstantLRScheduler()
