"""The learning rate scheduler of whoever brings none."""

from typing import Any

from d9d.core.protocol import LRSchedulerProtocol
from d9d.loop.control import InitializeLRSchedulerContext


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
