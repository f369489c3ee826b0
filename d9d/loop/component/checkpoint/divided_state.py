"""State that the processes of a job have divided among them."""

import abc
from typing import Any

import torch


class DividedState(abc.ABC):
    """State of which each process holds a share, under names that are the same for any division."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the share of this process."""

    @abc.abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take the share of this process back.

        Args:
            state_dict: What lies at the outline that `narrow` returned.
        """

    @abc.abstractmethod
    def narrow(self, outline: Any) -> Any:
        """Return the outline of this process's share.

        Args:
            outline: That of all processes' state.
        """

    @abc.abstractmethod
    def make_room(self, outline: Any) -> dict[str, torch.Tensor]:
        """Return the tensors to read into, by path.

        Args:
            outline: What `narrow` returned.
        """

    def summarize(self, outline: Any) -> Any:
        """Return the outline as a job compares it with that of another job.

        Args:
            outline: That of all processes' state.
        """
        return outline
