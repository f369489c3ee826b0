"""The interfaces that the loops expect of the objects that users provide."""

from typing import Any, Protocol, runtime_checkable

__all__ = ["LRSchedulerProtocol", "OptimizerProtocol", "Stateful"]


@runtime_checkable
class Stateful(Protocol):
    """An object whose state can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers, strings, booleans and `None`, in dicts, lists and tuples."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore the state that `state_dict` returned."""


class OptimizerProtocol(Stateful, Protocol):
    """Updates parameters from their gradients; every `torch.optim.Optimizer` does."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameters in groups, each with its options, such as `lr`."""

    def step(self) -> Any:
        """Update the parameters from their gradients."""

    def zero_grad(self) -> None:
        """Reset the gradients."""


class LRSchedulerProtocol(Stateful, Protocol):
    """Sets the learning rate of an optimizer; every `torch.optim.lr_scheduler.LRScheduler` does."""

    def step(self) -> None:
        """Set the learning rate of the next optimizer step."""
