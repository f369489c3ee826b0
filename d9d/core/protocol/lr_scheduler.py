"""What the training loop asks of a learning rate scheduler."""

from typing import Protocol

from d9d.core.protocol.stateful import Stateful


class LRSchedulerProtocol(Stateful, Protocol):
    """Sets the learning rate of an optimizer; every `torch.optim.lr_scheduler.LRScheduler` does."""

    def step(self) -> None:
        """Set the learning rate of the next optimizer step."""
