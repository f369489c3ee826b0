"""State that the ranks of a job hold together: model weights, optimizer moments."""

import abc
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from d9d.core.parallel import unwrapped_name
from d9d.loop.component.checkpoint.state_dict import (
    StateError,
    describe_outline,
    empty_tensors,
    is_same_outline,
    merge_outlines,
    split_state,
)
from d9d.loop.component.ranks import ALONE, Ranks


class ShardedState(abc.ABC):
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


logger = logging.getLogger(__name__)

# Integers of the width of other numbers, through which their bits are seen.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def unite(
    state: Mapping[str, Any], ranks: Ranks, differing: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], Any]:
    """Take the state of all ranks apart.

    Args:
        state: The state of this rank, as `split_state` takes it.
        ranks: Who holds state. What several of them hold under one path is the same on each.
        differing: The paths of plain tensors that need not be the same: the first rank's is kept.

    Returns:
        The tensors that this rank writes, and the outline of all ranks' state.

    Raises:
        StateError: On all ranks, if state cannot be kept, or is not the same where it must be, with its path.
    """
    if ranks.is_alone:
        return split_state(state)
    tensors, *seen = ranks.run_on_all_ranks(lambda: _take_apart(state))
    outlines, digests = zip(*ranks.gather(seen), strict=True)
    # All ranks see the same, and so come to the same error or none.
    merged = merge_outlines(outlines)
    writers = _writers(digests, differing, ranks)
    return {path: tensor for path, tensor in tensors.items() if writers.get(path, ranks.rank) == ranks.rank}, merged


def is_alike(state: Mapping[str, Any], ranks: Ranks, name: str = "") -> bool:
    """Say whether all ranks hold the same state.

    Args:
        state: The state of this rank.
        ranks: Who holds state.
        name: What errors call it.

    Returns:
        Whether it is the same, on all ranks alike.

    Raises:
        StateError: On all ranks, if state cannot be kept.
    """
    if ranks.is_alone:
        return True
    _, *seen = ranks.run_on_all_ranks(lambda: _take_apart(state, name))
    (first, first_digests), *others = ranks.gather(seen)
    return all(is_same_outline(other, first) and digests == first_digests for other, digests in others)


def _take_apart(state: Mapping[str, Any], name: str = "") -> tuple[dict[str, torch.Tensor], Any, dict[str, int]]:
    """Return the tensors, the outline, and the digests of those tensors that a rank holds whole."""
    tensors, outline = split_state(state, name)
    return tensors, outline, _digests({path: held for path, held in tensors.items() if not isinstance(held, DTensor)})


def _digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Sum the bits of each tensor, which any change of one number changes; waits for the device once."""
    by_device: dict[torch.device, dict[str, torch.Tensor]] = {}
    for path, tensor in tensors.items():
        numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        bits = numbers.reshape(-1).view(_INTEGERS[numbers.itemsize])
        by_device.setdefault(tensor.device, {})[path] = bits.sum(dtype=torch.int64)
    return {
        path: digest
        for sums in by_device.values()
        for path, digest in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)
    }


def _writers(digests: Collection[Mapping[str, int]], differing: Collection[str], ranks: Ranks) -> dict[str, int]:
    """Return which rank writes each plain tensor: the first that holds it."""
    writers: dict[str, int] = {}
    expected: dict[str, int] = {}
    for rank, held in enumerate(digests):
        for path, digest in held.items():
            writer = writers.setdefault(path, rank)
            if expected.setdefault(path, digest) == digest:
                continue
            if path not in differing:
                raise StateError(
                    f"the tensor {path!r} has other numbers on rank {writer} than on rank {rank}, and a checkpoint "
                    "keeps one of them: have it be the same on all ranks, or give it another name on each"
                )
            if ranks.is_main:
                logger.warning("%s differs on ranks %d and %d: the one of %d is kept", path, writer, rank, writer)
    return writers


class ModelState(ShardedState):
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
                _put(state, unwrapped_name(name), value)
        return state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Give each stage its state.

        Args:
            state_dict: The state of these stages or more, by name.
        """
        for module in self._modules:
            module.load_state_dict({name: state_dict[unwrapped_name(name)] for name in module.state_dict()})

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
                yield unwrapped_name(name), value


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
    state = ranks.run_on_all_ranks(lambda: {"model": model.state_dict()})
    _, outline = unite(state, ranks, {f"model/{name}" for name in model.buffer_names()})
    return describe_outline(outline)


def _put(state: dict[str, Any], name: str, value: Any) -> None:
    if name in state:
        raise StateError(
            f"two stages of this process have a weight named {name!r}: name them as the whole model would, such as "
            "'layers.0.weight' and 'layers.1.weight'"
        )
    state[name] = value


# What a group says of the parameters of this process, which another division has others of.
_OF_THE_PROCESS = ("params", "param_names")


class OptimizerState(ShardedState):
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
