"""State that the ranks of a job share: sharded or replicated model weights and optimizer moments."""

import abc
import copy
import functools
import hashlib
import itertools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from d9d.loop.component.checkpoint.state_dict import (
    StateError,
    allocate_tensors,
    describe_metadata,
    is_same_metadata,
    merge_metadata,
    split_state,
)
from d9d.loop.component.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

_WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})


def unwrapped_name(name: str) -> str:
    """Return the name that a module, parameter or buffer has without the wrappers around modules.

    Args:
        name: The name as torch has it, with the parts that `torch.compile` and activation checkpointing add.
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


class ShardedState(abc.ABC):
    """State of which each rank holds a part, under names that are the same for any mesh."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the part of this rank."""

    @abc.abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load the part of this rank.

        Args:
            state_dict: The state that the metadata from `select_local` describes.
        """

    @abc.abstractmethod
    def select_local(self, metadata: Any) -> Any:
        """Select the metadata of the part of this rank.

        Args:
            metadata: That of the whole state.
        """

    @abc.abstractmethod
    def load_targets(self, metadata: Any) -> dict[str, torch.Tensor]:
        """Return the tensors to load into, by path.

        Args:
            metadata: What `select_local` returned.
        """

    def summarize(self, metadata: Any) -> Any:
        """Return the metadata by which a job is compared with a checkpoint.

        Args:
            metadata: That of the whole state.
        """
        return metadata


class ModelState(ShardedState):
    """The state of the stages of a model that this rank holds, as of one model.

    A weight that the model ties is saved once, under the first of its names.

    Args:
        modules: The stages. Each weight is in one stage only, under its name in the whole model.
        tied: The weights that stages of a pipeline share: the name of each, and the name of the one that it equals.
        trainable_only: Whether to leave out parameters that do not require a gradient.
    """

    def __init__(
        self, modules: Sequence[nn.Module], tied: Mapping[str, str] | None = None, *, trainable_only: bool = False
    ) -> None:
        self._modules = [module.module if isinstance(module, DistributedDataParallel) else module for module in modules]
        self._tied = tied or {}
        self._trainable_only = trainable_only
        self._trained_at_start: dict[str, bool] = {}

    def begin(self) -> None:
        """Remember which parameters are trained as the run begins, which its program makes so again when it resumes."""
        self._trained_at_start = self._trained()

    def changes_of_trained(self) -> dict[str, bool]:
        """Return the parameters that were frozen or unfrozen since the run began, and whether each is trained now."""
        start = self._trained_at_start
        return {
            name: is_trained
            for name, is_trained in self._trained().items()
            if start.get(name, is_trained) != is_trained
        }

    def repeat_changes_of_trained(self, changes: Mapping[str, bool]) -> None:
        """Freeze and unfreeze parameters as in the run that resumes.

        Args:
            changes: What `changes_of_trained` returned there, also of stages that this rank does not hold.
        """
        for parameter, name in self.parameter_names().items():
            parameter.requires_grad_(changes.get(name, parameter.requires_grad))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all stages by name; the tensors are the model's own, not copies.

        Raises:
            StateError: If two stages use one name.
        """
        return {
            name: value.detach() if isinstance(value, torch.Tensor) else value
            for name, value in self._own().items()
            if not (self._trainable_only and isinstance(value, nn.Parameter) and self._is_frozen(name, value))
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load the state of each stage.

        Args:
            state_dict: The state of these stages, or of more or fewer weights, by name.
        """
        names = {**self.aliases(), **self._tied}
        for module in self._modules:
            own = module.state_dict(keep_vars=True)
            # What has been loaded in place is the same object, which torch does not copy onto itself.
            found = {name: names.get(unwrapped_name(name), unwrapped_name(name)) for name in own}
            module.load_state_dict({name: state_dict.get(found[name], value) for name, value in own.items()})

    def select_local(self, metadata: Any) -> Any:  # noqa: D102 -- inherited
        own = self._own()
        return {"dict": [[name, value] for name, value in metadata["dict"] if name in own]}

    def load_targets(self, metadata: Any) -> dict[str, torch.Tensor]:
        """Return the weights themselves, so that there is never a second copy of them."""
        own = self._own()
        targets: dict[str, torch.Tensor] = {}
        for name, value in metadata["dict"]:
            match value:
                case {"tensor": {"path": path}}:
                    targets[path] = own[name]
                case _:
                    targets |= allocate_tensors(value)
        return targets

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The stages."""
        return self._modules

    @property
    def tied(self) -> Mapping[str, str]:
        """The weights that stages of a pipeline share."""
        return self._tied

    def weights(self) -> dict[str, Any]:
        """Return all that the stages hold by name, as the objects that the model has."""
        return self._own()

    def aliases(self) -> dict[str, str]:
        """Return the further names of tied weights, each with the name under which the weight is saved."""
        names: dict[int, str] = {}
        found: dict[str, str] = {}
        for name, value in self._named_values():
            if name in self._tied:
                found[name] = self._tied[name]
            elif isinstance(value, torch.Tensor) and (first := names.setdefault(id(value), name)) != name:
                found[name] = self._tied.get(first, first)
        return found

    def parameter_names(self) -> dict[torch.Tensor, str]:
        """Return the name of each parameter; of a tied parameter, the one under which it is saved."""
        names: dict[torch.Tensor, str] = {}
        for name, value in self._named_values():
            if isinstance(value, nn.Parameter):
                names.setdefault(value, self._tied.get(name, name))
        return names

    def buffer_names(self) -> set[str]:
        """Return the names of all state that is not a parameter."""
        return {name for name, value in self._named_values() if not isinstance(value, nn.Parameter)}

    def _trained(self) -> dict[str, bool]:
        return {name: parameter.requires_grad for parameter, name in self.parameter_names().items()}

    def _is_frozen(self, name: str, parameter: nn.Parameter) -> bool:
        """Return whether a parameter has the value that it started with; one that a handler has frozen was trained."""
        return not parameter.requires_grad and not self._trained_at_start.get(name, False)

    def _own(self) -> dict[str, Any]:
        """Return the values by the names under which they are saved."""
        aliases = self.aliases()
        own: dict[str, Any] = {}
        for name, value in self._named_values():
            if name in aliases:
                continue
            if name in own:
                raise StateError(
                    f"two stages on this rank have a weight named {name!r}: name weights as in the whole model, "
                    "such as 'layers.0.weight' and 'layers.1.weight'"
                )
            own[name] = value
        for name, value in self._named_values():
            if name in self._tied:
                own.setdefault(self._tied[name], value)  # the stage with the other one may be on another rank
        return own

    def _named_values(self) -> Iterator[tuple[str, Any]]:
        for module in self._modules:
            # Unlike `named_parameters`, this makes FSDP put its sharded parameters back first.
            for name, value in module.state_dict(keep_vars=True).items():
                yield unwrapped_name(name), value


_NUM_CHECKSUMS = 2**64  # the sums of shards overflow as that of the whole does

# What torch puts into a group about the parameters of this rank; on another mesh they are others.
_LOCAL_SETTINGS = ("params", "param_names")


class OptimizerState(ShardedState):
    """The state of an optimizer of torch, which can be loaded on any mesh.

    Each rank holds the moments of its own parameters, or shards of them, as the optimizer has them, and for each
    parameter the settings of its group.

    Args:
        optimizer: The optimizer.
        model: Names its parameters.

    Attributes:
        is_new_run: Whether a new run starts with the state that is loaded. Otherwise the run continues.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: ModelState) -> None:
        self.is_new_run = False
        self._optimizer = optimizer
        self._model = model
        self._kept: Collection[str] | None = ()

    def keep_options(self, options: Collection[str] | None) -> None:
        """Keep options of the parameter groups as they are now when a state is loaded.

        Args:
            options: The names of the options; `None` means all of them.
        """
        self._kept = options

    def state_dict(self) -> dict[str, Any]:
        """Return `state` and `param_groups`, each by the name of the parameter.

        Raises:
            StateError: If the optimizer has a parameter that is not in the model.
        """
        names_of_groups = self._names_of_groups()
        names = [name for group in names_of_groups for name in group]
        saved = self._optimizer.state_dict()
        state = {names[key] if isinstance(key, int) else key: value for key, value in saved["state"].items()}
        groups: dict[str, Any] = {}
        for group, group_names in zip(saved["param_groups"], names_of_groups, strict=True):
            for name in group_names:
                groups[name] = {key: value for key, value in group.items() if key not in _LOCAL_SETTINGS}
        return {**saved, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load the state of the optimizer.

        Args:
            state_dict: The state of its parameters, or of more, by name.

        Raises:
            StateError: If parameters of one group were saved in groups with different settings.
        """
        names_of_groups = self._names_of_groups()
        positions: dict[str, list[int]] = {}
        for index, name in enumerate(name for group in names_of_groups for name in group):
            positions.setdefault(name, []).append(index)
        current = self._optimizer.state_dict()
        groups = [
            {**group, **self._loaded_options(state_dict["param_groups"], names), "params": group["params"]}
            for group, names in zip(current["param_groups"], names_of_groups, strict=True)
        ]
        state: dict[Any, Any] = {}
        for name, value in state_dict["state"].items():
            first, *others = positions.get(name, [name])
            state[first] = value
            # Two stages of this rank share the weight, and each has moments of its own for it.
            state |= {index: copy.deepcopy(value) for index in others}
        # Before any hook of the user, which may want other dtypes.
        restore = functools.partial(_restore_dtypes, saved=state)
        with self._optimizer.register_load_state_dict_post_hook(restore, prepend=True):
            self._optimizer.load_state_dict({**state_dict, "state": state, "param_groups": groups})

    def _loaded_options(self, saved: dict[str, Any], names: list[str]) -> dict[str, Any]:
        common, kept = _common_settings(saved, names), self._kept
        return {} if kept is None else {option: value for option, value in common.items() if option not in kept}

    def select_local(self, metadata: Any) -> Any:  # noqa: D102 -- inherited
        saved_groups = dict(dict(metadata["dict"])["param_groups"]["dict"])
        self._add_missing_groups(saved_groups)
        others = saved_groups.keys() - self.parameters().keys()
        return {
            "dict": [
                [key, {"dict": [[name, part] for name, part in value["dict"] if name not in others]}]
                if key in ("state", "param_groups")
                else [key, value]
                for key, value in metadata["dict"]
            ]
        }

    def _add_missing_groups(self, saved: Mapping[str, Any]) -> None:
        """Add the parameters that the optimizer had in the checkpoint and does not have now.

        A handler added them to it, for example to unfreeze layers one after the other. Without them, the layers would
        be frozen again.

        Args:
            saved: The metadata of the options of each parameter, by its name.

        Raises:
            StateError: If a new run starts, in which no handler has added anything yet.
        """
        by_name = {name: parameter for parameter, name in self._model.parameter_names().items()}
        added: list[tuple[Any, list[torch.Tensor]]] = []
        own = self.parameters()
        for name in saved:  # in the order of the groups
            if name in own or name not in by_name:
                continue
            parameters = next((found for options, found in added if options == saved[name]), None)
            if parameters is None:
                parameters = []
                added.append((saved[name], parameters))
            parameters.append(by_name[name])
        if added and self.is_new_run:
            names = [name for name in saved if name in by_name and name not in own]
            raise StateError(
                f"the checkpoint has moments of {len(names)} parameters that the optimizer of this run does not have, "
                f"such as {names[0]!r}: give them to the optimizer, or take the weights alone with "
                "resume.parts='weights'"
            )
        for _, parameters in added:
            for parameter in parameters:
                parameter.requires_grad_(True)  # noqa: FBT003 -- torch's signature
            self._optimizer.add_param_group({"params": parameters})

    def load_targets(self, metadata: Any) -> dict[str, torch.Tensor]:
        """Return new tensors for the moments, on the device, mesh and placements of the parameters."""
        own = self.parameters()
        targets: dict[str, torch.Tensor] = {}
        for key, value in metadata["dict"]:
            if key == "state":
                for name, moments in value["dict"]:
                    targets |= allocate_tensors(moments, own.get(name))
            else:
                targets |= allocate_tensors(value)
        return targets

    def summarize(self, metadata: Any) -> Any:
        """Return the metadata with each parameter group once, and its number of parameters instead of their names."""
        groups: list[Any] = []
        counts: list[int] = []
        for _, settings in sorted(dict(metadata["dict"])["param_groups"]["dict"]):
            if settings not in groups:
                groups.append(settings)
                counts.append(0)
            counts[groups.index(settings)] += 1
        numbered = [
            {"dict": [*settings["dict"], ["num_parameters", count]]}
            for settings, count in zip(groups, counts, strict=True)
        ]
        return {"dict": [[key, numbered if key == "param_groups" else value] for key, value in metadata["dict"]]}

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters of this rank by the names under which their state is saved."""
        parameters = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        return dict(zip((name for group in self._names_of_groups() for name in group), parameters, strict=True))

    def _names_of_groups(self) -> list[list[str]]:
        known = self._model.parameter_names()
        for number, group in enumerate(self._optimizer.param_groups):
            for position, parameter in enumerate(group["params"]):
                if parameter not in known:
                    raise StateError(
                        f"the optimizer has a parameter, param_groups[{number}]['params'][{position}] of shape "
                        f"{list(parameter.shape)}, that is not in the model, so a checkpoint has no name for "
                        "it: add it to the model"
                    )
        return [[known[parameter] for parameter in group["params"]] for group in self._optimizer.param_groups]


def _restore_dtypes(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> None:
    """Undo that torch converts all loaded state to the dtype of the parameter, such as float32 moments to bfloat16.

    Args:
        optimizer: The optimizer, which has loaded its state.
        saved: The state of each parameter by its number, as it was saved.
    """
    parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for number, parameter in enumerate(parameters):
        if number in saved:
            optimizer.state[parameter] = _with_saved_dtypes(optimizer.state[parameter], saved[number])


def _with_saved_dtypes(loaded: Any, saved: Any) -> Any:
    if isinstance(loaded, torch.Tensor) and isinstance(saved, torch.Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(loaded, dict) and isinstance(saved, dict):
        # Of "step", torch knows the dtype that its own optimizers need. An optimizer may have added values.
        return {
            key: _with_saved_dtypes(value, saved[key]) if key in saved and key != "step" else value
            for key, value in loaded.items()
        }
    if isinstance(loaded, list | tuple) and isinstance(saved, list | tuple):
        return type(loaded)(_with_saved_dtypes(*pair) for pair in zip(loaded, saved, strict=True))
    return loaded


def describe_model(
    modules: Sequence[nn.Module], ranks: Ranks = ALONE, tied: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Describe the weights of a whole model, of which each rank holds a part.

    Args:
        modules: The stages of the model on this rank.
        ranks: The ranks of the job, all of which call this.
        tied: As for `ModelState`.

    Returns:
        The dtype and shape of each weight by path, such as `model/layers.0.weight`; the same for any mesh.

    Raises:
        StateError: On all ranks, if two stages use one name, or ranks hold different weights under one name.
    """
    model = ModelState(modules, tied)
    state = ranks.run_on_all_ranks(lambda: {"model": model.state_dict()})
    _, metadata = split_across_ranks(state, ranks, {f"model/{name}" for name in model.buffer_names()})
    return describe_metadata(metadata)


def digest_of_frozen(modules: Sequence[nn.Module], ranks: Ranks = ALONE) -> str:
    """Return a name for the values of the parameters that do not require a gradient, which no other values have.

    Args:
        modules: The stages of the model on this rank.
        ranks: The ranks of the job, all of which call this and get the same; it is the same for any mesh.
    """
    own = ModelState(modules).weights()
    frozen = {name: value for name, value in own.items() if isinstance(value, nn.Parameter) and not value.requires_grad}
    parts = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in frozen.items()}
    sums = _checksums({name: part.detach() for name, part in parts.items() if _is_first_copy(frozen[name])})
    totals: dict[str, int] = {}
    for name, is_shard, checksum in itertools.chain.from_iterable(
        ranks.gather([(name, isinstance(frozen[name], DTensor), checksum) for name, checksum in sums.items()])
    ):
        if is_shard:
            totals[name] = (totals.get(name, 0) + checksum) % _NUM_CHECKSUMS
        else:
            totals.setdefault(name, checksum % _NUM_CHECKSUMS)
    return hashlib.sha256(repr(sorted(totals.items())).encode()).hexdigest()[:16]


def _is_first_copy(parameter: nn.Parameter) -> bool:
    """Return whether no other rank counts the same part of a parameter."""
    if not isinstance(parameter, DTensor):
        return True
    coordinate = parameter.device_mesh.get_coordinate() or ()
    pairs = zip(coordinate, parameter.placements, strict=False)
    return all(place == 0 for place, placement in pairs if placement.is_replicate())


def split_across_ranks(
    state: Mapping[str, Any], ranks: Ranks, may_differ: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], Any]:
    """Split the state of all ranks into the tensors that each of them writes, and one metadata.

    Args:
        state: The state of this rank, as for `split_state`.
        ranks: The ranks of the job, all of which call this. What several of them have at one path must be the same.
        may_differ: The paths of plain tensors that need not be the same: the lowest rank that has one writes it.

    Returns:
        The tensors that this rank writes, and the metadata of the state of all ranks.

    Raises:
        StateError: On all ranks, if a checkpoint cannot hold the state, or state that must be the same is not; with its
            path.
    """
    if ranks.is_alone:
        return split_state(state)
    tensors, *local = ranks.run_on_all_ranks(lambda: _split_with_checksums(state))
    metadata_of_ranks, checksums_of_ranks = zip(*ranks.gather(local), strict=True)
    # All ranks see the same values here, so all of them raise the same error or none.
    merged = merge_metadata(metadata_of_ranks)
    writers = _assign_writers(checksums_of_ranks, may_differ, ranks)
    return {path: tensor for path, tensor in tensors.items() if writers.get(path, ranks.rank) == ranks.rank}, merged


def is_replicated(state: Mapping[str, Any], ranks: Ranks, path: str = "") -> bool:
    """Return whether all ranks have the same state.

    Args:
        state: The state of this rank.
        ranks: The ranks of the job, all of which call this and get the same answer.
        path: The path of the state, for errors.

    Raises:
        StateError: On all ranks, if a checkpoint cannot hold the state.
    """
    if ranks.is_alone:
        return True
    _, *local = ranks.run_on_all_ranks(lambda: _split_with_checksums(state, path))
    (first, first_checksums), *others = ranks.gather(local)
    return all(is_same_metadata(other, first) and checksums == first_checksums for other, checksums in others)


def _split_with_checksums(
    state: Mapping[str, Any], path: str = ""
) -> tuple[dict[str, torch.Tensor], Any, dict[str, int]]:
    """Return the tensors, the metadata, and a checksum of each plain tensor."""
    tensors, metadata = split_state(state, path)
    return (
        tensors,
        metadata,
        _checksums({path: part for path, part in tensors.items() if not isinstance(part, DTensor)}),
    )


def _checksums(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Sum the bits of each tensor; the device is synchronised once."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums_by_device: dict[torch.device, dict[str, torch.Tensor]] = {}
    for path, tensor in tensors.items():
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        bits = values.reshape(-1).view(integers[values.itemsize])
        sums_by_device.setdefault(tensor.device, {})[path] = bits.sum(dtype=torch.int64)
    return {
        path: checksum
        for sums in sums_by_device.values()
        for path, checksum in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)
    }


def _assign_writers(
    checksums_of_ranks: Collection[Mapping[str, int]], may_differ: Collection[str], ranks: Ranks
) -> dict[str, int]:
    """Return which rank writes each plain tensor: the lowest that has it."""
    writers: dict[str, int] = {}
    expected: dict[str, int] = {}
    for rank, checksums in enumerate(checksums_of_ranks):
        for path, checksum in checksums.items():
            writer = writers.setdefault(path, rank)
            if expected.setdefault(path, checksum) == checksum:
                continue
            if path not in may_differ:
                raise StateError(
                    f"the tensor {path!r} differs between rank {writer} and rank {rank}, and a checkpoint holds one "
                    "value for it: make it the same on all ranks, or give it a different name on each"
                )
            if ranks.is_main:
                logger.warning("%s differs between ranks %d and %d: saving that of rank %d", path, writer, rank, writer)
    return writers


def _common_settings(groups: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the settings that all parameters of a group were saved with."""
    if not names:
        return {}
    first: dict[str, Any] = groups[names[0]]
    for name in names:
        for key, value in groups[name].items():
            if key not in first or bool(value != first[key]):
                raise StateError(
                    f"{names[0]} and {name} are in one parameter group, but were saved in groups with different {key}: "
                    f"{first.get(key)!r} and {value!r}; group them as they were"
                )
    return first
