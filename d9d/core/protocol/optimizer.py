"""What the training loop asks of an optimizer."""

from typing import Any, Protocol

from d9d.core.protocol.stateful import Stateful


class OptimizerProtocol(Stateful, Protocol):
    """Updates parameters from their gradients; every `torch.optim.Optimizer` does."""

    def step(self) -> Any:
        """Update the parameters from their gradients."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
