"""How training comes by its learning rate scheduler."""

import dataclasses
from typing import Protocol

import torch

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

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, for the schedulers of `torch.optim.lr_scheduler`, which take no other.

        Raises:
            TypeError: If it is none of torch's kind.
        """
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"the optimizer is a {type(self.optimizer).__qualname__}, and torch's schedulers set the learning rate "
                "of a torch.optim.Optimizer alone: derive it from that class, or pass an lr_scheduler_provider that "
                "returns a scheduler of your own for it"
            )
        return self.optimizer


class LRSchedulerProvider(Protocol):
    """A function, or an object that is called like one, which brings the scheduler."""

    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        """Build the scheduler."""
