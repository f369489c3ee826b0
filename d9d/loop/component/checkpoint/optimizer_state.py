"""The state of an optimizer, under the names of the parameters instead of their positions."""

from typing import Any

import torch

from d9d.loop.component.checkpoint.divided_state import DividedState
from d9d.loop.component.checkpoint.model_state import ModelState
from d9d.loop.component.checkpoint.state_tree import StateError, empty_tensors

# What a group says of the parameters of this process, which another division has others of.
_OF_THE_PROCESS = ("params", "param_names")


class OptimizerState(DividedState):
    """The state of one of torch's optimizers, which any other division of the model can take up.

    Each process has the moments of its own parameters, or parts of parameters, as the optimizer has them; and, for each
    parameter, the settings of its group.

    Args:
        optimizer: The optimizer.
        model: Knows the parameters by name.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: ModelState) -> None:
        self._optimizer = optimizer
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return `state` and `param_groups`, each by the name of the parameter.

        Raises:
            StateError: If the optimizer has a parameter that the model has not.
        """
        names = self._names()
        flat = [name for group in names for name in group]
        saved = self._optimizer.state_dict()
        groups = {
            name: {key: value for key, value in group.items() if key not in _OF_THE_PROCESS}
            for group, group_names in zip(saved["param_groups"], names, strict=True)
            for name in group_names
        }
        state = {flat[key] if isinstance(key, int) else key: value for key, value in saved["state"].items()}
        return {**saved, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Give the optimizer its state.

        Args:
            state_dict: The state of these parameters or more.

        Raises:
            StateError: If parameters of one group were in groups of different settings.
        """
        names = self._names()
        positions = {name: position for position, name in enumerate(name for group in names for name in group)}
        current = self._optimizer.state_dict()
        groups = [
            {**group, **_common(state_dict["param_groups"], group_names), "params": group["params"]}
            for group, group_names in zip(current["param_groups"], names, strict=True)
        ]
        state = {positions.get(name, name): value for name, value in state_dict["state"].items()}
        self._optimizer.load_state_dict({**state_dict, "state": state, "param_groups": groups})

    def narrow(self, outline: Any) -> Any:  # noqa: D102 -- inherited
        own = self._parameters()
        others = set(dict(dict(outline["dict"])["param_groups"]["dict"])) - own.keys()
        return {
            "dict": [
                [key, {"dict": [[name, part] for name, part in value["dict"] if name not in others]}]
                if key in ("state", "param_groups")
                else [key, value]
                for key, value in outline["dict"]
            ]
        }

    def make_room(self, outline: Any) -> dict[str, torch.Tensor]:
        """Return room for moments where the parameters lie, divided as they are."""
        own = self._parameters()
        rooms: dict[str, torch.Tensor] = {}
        for key, value in outline["dict"]:
            if key == "state":
                for name, moments in value["dict"]:
                    rooms |= empty_tensors(moments, own.get(name))
            else:
                rooms |= empty_tensors(value)
        return rooms

    def summarize(self, outline: Any) -> Any:
        """Return the outline with each parameter group once, and how many parameters it has, instead of which."""
        groups: list[Any] = []
        counts: list[int] = []
        for _, settings in sorted(dict(outline["dict"])["param_groups"]["dict"]):
            if settings not in groups:
                groups.append(settings)
                counts.append(0)
            counts[groups.index(settings)] += 1
        numbered = [
            {"dict": [*settings["dict"], ["num_parameters", count]]}
            for settings, count in zip(groups, counts, strict=True)
        ]
        return {"dict": [[key, numbered if key == "param_groups" else value] for key, value in outline["dict"]]}

    def _parameters(self) -> dict[str, torch.Tensor]:
        parameters = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        return dict(zip((name for group in self._names() for name in group), parameters, strict=True))

    def _names(self) -> list[list[str]]:
        known = self._model.parameter_names()
        return [
            [_name_of(parameter, known, f"{group}/{position}") for position, parameter in enumerate(settings["params"])]
            for group, settings in enumerate(self._optimizer.param_groups)
        ]


def _name_of(parameter: torch.Tensor, known: dict[torch.Tensor, str], place: str) -> str:
    if parameter not in known:
        raise StateError(
            f"the optimizer holds a parameter of shape {list(parameter.shape)} (param_groups/{place}) that the model "
            "does not, so that a checkpoint has no name for it: put it into the model"
        )
    return known[parameter]


def _common(groups: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the settings that all parameters of a group were saved with."""
    if not names:
        return {}
    first: dict[str, Any] = groups[names[0]]
    for name in names:
        for key, value in groups[name].items():
            if key not in first or bool(value != first[key]):
                raise StateError(
                    f"{names[0]} and {name} are in one parameter group, and were saved in groups of different {key}: "
                    f"{first.get(key)!r} and {value!r}; group them as they were"
                )
    return first
