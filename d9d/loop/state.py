"""What a job carries from one process to the next."""

from collections.abc import Mapping
from typing import Any

from d9d.core.protocol import Stateful
from d9d.loop.component.state_tree import describe_state


class JobState:
    """The parts of a job that a checkpoint holds, by name.

    Args:
        parts: The parts, in the order in which they take their state back.
    """

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self._parts = dict(parts)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part, by its name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Give each part its state back.

        Args:
            state_dict: What `state_dict` returned.
        """
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])

    def describe(self, *names: str) -> dict[str, Any]:
        """Describe some parts as they stand: their numbers, and the types and shapes of their tensors.

        Args:
            *names: The parts.

        Returns:
            What lies at each path of their state, in JSON's types.

        Raises:
            StateError: If any part of the job, described or not, holds what a checkpoint cannot keep.
        """
        described = describe_state(self.state_dict())
        prefixes = tuple(f"{name}/" for name in names)
        return {path: value for path, value in described.items() if path.startswith(prefixes)}
