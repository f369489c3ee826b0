"""The weights of a model, under names that are the same however the model is divided."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d9d.loop.component.checkpoint.divided_state import DividedState
from d9d.loop.component.checkpoint.state_tree import StateError, describe_outline, empty_tensors
from d9d.loop.component.checkpoint.united_state import unite
from d9d.loop.component.ranks import ALONE, Ranks

# What torch.compile and activation checkpointing put into the names of what they wrap.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


class ModelState(DividedState):
    """The state of all stages of a model that this process holds, as of one model.

    Args:
        modules: The stages, whose names are those of the whole model: each name is on one stage alone.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = [module.module if isinstance(module, DistributedDataParallel) else module for module in modules]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all stages, by name; tensors are the model's own, not copies.

        Raises:
            StateError: If two stages use one name.
        """
        state: dict[str, Any] = {}
        for module in self._modules:
            for name, value in module.state_dict().items():
                _put(state, global_name(name), value)
        return state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Give each stage its state.

        Args:
            state_dict: The state of these stages or more, by name.
        """
        for module in self._modules:
            module.load_state_dict({name: state_dict[global_name(name)] for name in module.state_dict()})

    def narrow(self, outline: Any) -> Any:  # noqa: D102 -- inherited
        own = self.state_dict()
        return {"dict": [[name, value] for name, value in outline["dict"] if name in own]}

    def make_room(self, outline: Any) -> dict[str, torch.Tensor]:
        """Return the weights themselves, so that no second copy of them is ever held."""
        own = self.state_dict()
        rooms: dict[str, torch.Tensor] = {}
        for name, value in outline["dict"]:
            match value:
                case {"tensor": {"path": path}}:
                    rooms[path] = own[name]
                case _:
                    rooms |= empty_tensors(value)
        return rooms

    def parameter_names(self) -> dict[torch.Tensor, str]:
        """Return the name of each parameter, as it is sharded; the first one of those that it shares."""
        names: dict[torch.Tensor, str] = {}
        for name, value in self._values():
            if isinstance(value, nn.Parameter):
                names.setdefault(value, name)
        return names

    def buffer_names(self) -> set[str]:
        """Return the names of all state that is no parameter."""
        return {name for name, value in self._values() if not isinstance(value, nn.Parameter)}

    def _values(self) -> Iterator[tuple[str, Any]]:
        for module in self._modules:
            # Unlike named_parameters, this has FSDP put its gathered parameters away first.
            for name, value in module.state_dict(keep_vars=True).items():
                yield global_name(name), value


def describe_model(modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> dict[str, Any]:
    """Describe the weights of a whole model, of which each rank holds a part.

    Args:
        modules: The stages that this rank holds.
        ranks: The processes of the job, all of which call this.

    Returns:
        The type and shape of each weight, by its path, such as `model/layers.0.weight`; the same however it is divided.

    Raises:
        StateError: On all ranks, if the names do not fit together, or ranks hold different weights of one name.
    """
    model = ModelState(modules)
    state = ranks.everywhere(lambda: {"model": model.state_dict()})
    _, outline = unite(state, ranks, {f"model/{name}" for name in model.buffer_names()})
    return describe_outline(outline)


def global_name(name: str) -> str:
    """Return the name of a weight without what wraps it.

    Args:
        name: The name as a module's `state_dict` has it.

    Returns:
        The name that it would have in the bare model.
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _put(state: dict[str, Any], name: str, value: Any) -> None:
    if name in state:
        raise StateError(
            f"two stages of this process have a weight named {name!r}: name them as the whole model would, such as "
            "'layers.0.weight' and 'layers.1.weight'"
        )
    state[name] = value
