"""How training comes by its learning rate scheduler."""

import dataclasses
from typing import Protocol

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeLRSchedulerContext:
    """What a learning rate scheduler can be built from.

    Attributes:
        dist_context: The process and its device.
        optimizer: The optimizer whose learning rate shall be set.
        total_steps: How many optimizer steps the run has.
    """

    dist_context: DistributedContext
    optimizer: OptimizerProtocol
    total_steps: int


class LRSchedulerProvider(Protocol):
    """A function, or an object that is called like one, which brings the scheduler."""

    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        """Build the scheduler."""
