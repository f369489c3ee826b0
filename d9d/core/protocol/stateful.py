"""What a checkpoint asks of whatever it holds."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be taken, and given back to go on from there."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers, strings, booleans and `None`, in dicts, lists and tuples."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from what `state_dict` returned."""
