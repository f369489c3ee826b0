"""The complete state of a job: its parts, and how the ranks hold each of them."""

import collections
import dataclasses
import enum
import itertools
import logging
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol, Stateful
from d9d.loop.component.checkpoint.changed_model import ChangedModel
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.resume import NO_CHANGES, Changes
from d9d.loop.component.checkpoint.sharded_state import (
    ModelState,
    OptimizerState,
    ShardedState,
    is_replicated,
    split_across_ranks,
)
from d9d.loop.component.checkpoint.state_dict import allocate_tensors, describe_metadata, join_state, split_state
from d9d.loop.component.checkpoint.storage import SavedState
from d9d.loop.component.checkpoint.weight_mapping import WeightMapping
from d9d.loop.component.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

_REPLICATED_KEY = "all"
_TRAINED = "requires_grad"


class Distribution(enum.Enum):
    """How the ranks of a job hold a part of its state, and what another number of ranks does with it."""

    SHARDED = enum.auto()
    """Sharded or replicated: it loads on any number of ranks."""

    REPLICATED_OR_PER_RANK = enum.auto()
    """Replicated if all ranks had the same, else `PER_RANK`."""

    PER_RANK = enum.auto()
    """Each rank has its own: on another number of ranks it starts fresh, with a warning."""

    REQUIRED_PER_RANK = enum.auto()
    """Each rank has its own: another number of ranks is refused."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the state of a job.

    Attributes:
        stateful: The object that has the state.
        distribution: How the ranks hold the state.
        is_optional: Whether a checkpoint without the state can be loaded.
    """

    stateful: Stateful
    distribution: Distribution = Distribution.SHARDED
    is_optional: bool = False


class TrainedParameters:
    """Which parameters handlers have frozen and unfrozen since the run began.

    Providers freeze weights again in each run. What a handler did after some step, it does not do again in a run that
    resumes later.

    Args:
        model: The model.
    """

    def __init__(self, model: ModelState) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """Return whether each of these parameters is trained now."""
        return self.model.changes_of_trained()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Freeze and unfreeze them again."""
        self.model.repeat_changes_of_trained(state_dict)


class JobState:
    """The parts of a job that are saved in its checkpoints.

    Args:
        parts: The parts by name, in the order in which they are loaded.
        ranks: The ranks of the job, all of which call each method.
        mapping: How weights of a checkpoint correspond to those of the model, if it has changed since; `None` if it
            must not.
    """

    def __init__(self, parts: Mapping[str, Part], ranks: Ranks = ALONE, mapping: WeightMapping | None = None) -> None:
        self._parts = dict(parts)
        self._ranks = ranks
        self.mapping = mapping

    def begin(self) -> None:
        """Remember what the program of the run has made, before anything is loaded or trained."""
        trained = self._parts.get(_TRAINED)
        if trained is not None and isinstance(trained.stateful, TrainedParameters):
            trained.stateful.model.begin()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this rank; state that is per rank lies under the number of the rank.

        Raises:
            Exception: On all ranks, if `state_dict` of any part fails on any of them.
        """
        states = self._ranks.run_on_all_ranks(self._local_states)
        return {name: self._with_rank_key(name, part, states[name]) for name, part in self._parts.items()}

    def sharded_state(self) -> dict[str, Any]:
        """Return the state of the model and the optimizer on this rank: nearly all memory that a job takes."""
        states = {name: part.stateful for name, part in self._parts.items() if isinstance(part.stateful, ShardedState)}
        return {name: stateful.state_dict() for name, stateful in states.items()}

    def may_differ(self) -> set[str]:
        """Return the paths of replicated tensors that may differ between ranks: buffers, such as batch statistics."""
        return {
            f"{name}/{buffer}"
            for name, part in self._parts.items()
            if isinstance(part.stateful, ModelState)
            for buffer in part.stateful.buffer_names()
        }

    def aliases(self) -> set[str]:
        """Return the settings of tied weights under their further names, as older checkpoints have them."""
        own = [
            f"{name}/{alias}"
            for name, part in self._parts.items()
            if isinstance(part.stateful, ModelState)
            for alias in part.stateful.aliases()
        ]
        return {alias for of_rank in self._ranks.gather(own) for alias in of_rank}

    def describe(self, *names: str) -> dict[str, Any]:
        """Describe parts as they are on all ranks: their values, and the dtypes and shapes of their tensors.

        Args:
            *names: The parts.

        Returns:
            The value at each path, in JSON's types; the same for any mesh.

        Raises:
            StateError: On all ranks, if a checkpoint cannot hold any part of the job, whether it is described or not,
                or state that ranks share is not the same on all of them.
        """
        _, metadata = split_across_ranks(self.state_dict(), self._ranks, self.may_differ())
        selected: list[Any] = []
        for name, value in metadata["dict"]:
            if name in names:
                stateful = self._parts[name].stateful
                selected.append([name, stateful.summarize(value) if isinstance(stateful, ShardedState) else value])
        return describe_metadata({"dict": selected})

    def load(self, saved: SavedState, changes: Changes = NO_CHANGES, parts: Collection[str] | None = None) -> None:
        """Load the state of each part.

        Options of the optimizer that the run changes keep their new values. If it changes the learning rates, the new
        schedule is advanced by the steps of the checkpoint instead of loading the state of the old one.

        Args:
            saved: The state of all ranks.
            changes: The settings that differ from the checkpoint.
            parts: The names of the parts to load; by default all of them.

        Raises:
            CheckpointError: On all ranks, if it cannot be read, or needs another number of ranks.
            Exception: On all ranks, if `load_state_dict` of any part fails on any of them.
        """
        chosen = {name: part for name, part in self._parts.items() if parts is None or name in parts}
        if parts is None:
            self._repeat_changes_of_trained(saved)  # first, because it decides which weights the other parts have
        changed = self._changed_model(saved, chosen)
        if parts is None:
            for name in saved.names() - self._parts.keys():
                self._warn("state %r in %s was not loaded: no object of that name", name, saved.path)
        is_rescheduled = changes.replays_schedule or (parts is not None and "lr_scheduler" not in parts)
        optimizer = chosen["optimizer"].stateful if "optimizer" in chosen else None
        if isinstance(optimizer, OptimizerState):
            optimizer.keep_options(changes.optimizer_options if parts is None else None)
            optimizer.is_new_run = parts is not None
        if is_rescheduled:
            chosen.pop("lr_scheduler", None)
        if changed is not None:
            chosen = {name: part for name, part in chosen.items() if name not in ("model", "optimizer")}
        metadata, targets = self._ranks.run_on_all_ranks(lambda: self._prepare(saved, chosen))
        saved.load(targets)
        self._ranks.run_on_all_ranks(lambda: self._load_parts(metadata, targets, saved))
        if changed is not None:
            changed.load(saved)
        if changes.replays_schedule and parts is None:
            self._ranks.run_on_all_ranks(self._replay_schedule)

    def _changed_model(self, saved: SavedState, chosen: Mapping[str, Part]) -> ChangedModel | None:
        """Return what loads weights and moments if the model has changed since; `None` if it has not."""
        if self.mapping is None or "model" not in chosen:
            return None
        model: Any = chosen["model"].stateful
        optimizer = chosen["optimizer"].stateful if "optimizer" in chosen else None
        changed = ChangedModel(
            self.mapping, model, optimizer if isinstance(optimizer, OptimizerState) else None, self._ranks
        )
        if not changed.is_in(saved):
            return None
        if optimizer is not None and not isinstance(optimizer, OptimizerState):
            raise CheckpointError(
                f"the state of the optimizer, a {type(optimizer).__qualname__}, cannot be loaded into a model that has "
                "changed: it is not one of torch's. Set resume.parts='weights' to start with the weights alone"
            )
        return changed

    def _repeat_changes_of_trained(self, saved: SavedState) -> None:
        """Freeze and unfreeze what handlers had frozen and unfrozen by the step of the checkpoint."""
        trained = self._parts[_TRAINED].stateful if _TRAINED in self._parts else None
        changes: dict[str, bool] = join_state(saved.metadata_at(_TRAINED), {}) if saved.has(_TRAINED) else {}
        if not isinstance(trained, TrainedParameters) or not changes:
            return
        trained.load_state_dict(changes)
        own = [*trained.model.parameter_names().values()]
        known = {name for names in self._ranks.gather(own) for name in names}
        for verb, is_trained in (("unfroze", True), ("froze", False)):
            names = [name for name, value in changes.items() if value is is_trained and name in known]
            if names and self._ranks.is_main:
                logger.info("a handler %s these parameters before, and so they are again: %s", verb, ", ".join(names))
        if unknown := [name for name in changes if name not in known]:
            self._warn(
                "a handler froze or unfroze parameters that this model does not have: %s. If they have other names "
                "now, freeze or unfreeze them in the model provider",
                ", ".join(unknown),
            )

    def _replay_schedule(self) -> None:
        scheduler: Any = self._parts["lr_scheduler"].stateful
        stepper: Any = self._parts["stepper"].stateful
        with warnings.catch_warnings():
            # torch expects a step of the optimizer before each; those are in the state of the checkpoint.
            warnings.simplefilter("ignore")
            for _ in range(stepper.current_step):
                scheduler.step()

    def _local_states(self) -> dict[str, dict[str, Any]]:
        return {name: part.stateful.state_dict() for name, part in self._parts.items()}

    def _with_rank_key(self, name: str, part: Part, state: dict[str, Any]) -> dict[str, Any]:
        if part.distribution is Distribution.SHARDED:
            return state
        can_be_replicated = part.distribution is Distribution.REPLICATED_OR_PER_RANK
        if can_be_replicated and is_replicated(state, self._ranks, f"{name}/{_REPLICATED_KEY}"):
            return {_REPLICATED_KEY: state}
        return {f"rank-{self._ranks.rank}": state}

    def _prepare(self, saved: SavedState, parts: Mapping[str, Part]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return the metadata of each part on this rank, and the tensors to load into."""
        metadata_of_parts: dict[str, Any] = {}
        targets: dict[str, torch.Tensor] = {}
        for name, part in parts.items():
            keys = self._find(name, part, saved)
            if keys is None:
                continue
            metadata = saved.metadata_at(*keys)
            if isinstance(part.stateful, ShardedState):
                metadata = part.stateful.select_local(metadata)
                targets |= part.stateful.load_targets(metadata)
            else:
                own, _ = split_state(part.stateful.state_dict(), "/".join(keys))
                targets |= allocate_tensors(metadata, own)
            metadata_of_parts[name] = metadata
        return metadata_of_parts, targets

    def _find(self, name: str, part: Part, saved: SavedState) -> tuple[str, ...] | None:
        """Return the keys of the state of a part on this rank; `None` if it starts fresh."""
        if part.is_optional and not saved.has(name):
            if name != _TRAINED:  # earlier versions did not save it
                self._warn("%s has no state for %r: starting it fresh", saved.path, name)
            return None
        if part.distribution is Distribution.SHARDED:
            return (name,)
        if part.distribution is Distribution.REPLICATED_OR_PER_RANK and saved.has(name, _REPLICATED_KEY):
            return (name, _REPLICATED_KEY)
        if saved.num_ranks == self._ranks.num_ranks:
            keys = (name, f"rank-{self._ranks.rank}")
            if isinstance(part.stateful, _NoState) and saved.metadata_at(*keys)["dict"]:
                raise CheckpointError(
                    f"{saved.path} has state of {name!r} for rank {self._ranks.rank}, where this job has no such "
                    "object, so it would be lost: register the object on all ranks that had it, or under another name "
                    "to start it fresh"
                )
            return keys
        if part.distribution is Distribution.REQUIRED_PER_RANK:
            raise CheckpointError(
                f"{name!r} was saved per rank by {saved.num_ranks} ranks and this job has {self._ranks.num_ranks}: "
                f"resume with {saved.num_ranks} ranks, or start fresh in another folder"
            )
        self._warn(
            "%r was saved per rank by %d ranks and this job has %d: starting it fresh",
            name,
            saved.num_ranks,
            self._ranks.num_ranks,
        )
        return None

    def _load_parts(self, metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], saved: SavedState) -> None:
        for name, metadata_of_part in metadata.items():
            try:
                self._parts[name].stateful.load_state_dict(join_state(metadata_of_part, tensors))
            except Exception as error:
                error.add_note(f"raised by load_state_dict of {name!r}, for its state in {saved.path}")
                raise

    def _warn(self, message: str, *arguments: object) -> None:
        if self._ranks.is_main:
            logger.warning(message, *arguments)


def training_state(
    ranks: Ranks,
    *,
    stepper: Stateful,
    modules: Sequence[nn.Module],
    optimizer: OptimizerProtocol,
    lr_scheduler: Stateful,
    task: Stateful,
    random: Stateful,
    data: Mapping[str, Stateful] | None = None,
    stateful: Mapping[str, Stateful] | None = None,
    tied: Mapping[str, str] | None = None,
    trainable_only: bool = False,
    mapping: WeightMapping | None = None,
) -> JobState:
    """Return the state of a training run.

    Args:
        ranks: The ranks of the job.
        stepper: Counts the steps.
        modules: The stages of the model on this rank.
        optimizer: Updates their parameters.
        lr_scheduler: Sets the learning rate.
        task: The task, which may have state.
        random: The random number generators of this rank.
        data: Objects that know the position in the data, by name; none if the number of steps decides it.
        stateful: Registered stateful objects by name, with the same names on all ranks.
        tied: The weights that stages of a pipeline share, as for `ModelState`.
        trainable_only: Whether to leave out parameters that do not require a gradient.
        mapping: As for `JobState`.

    Returns:
        The state, whose parts are loaded in this order.
    """
    model = ModelState(modules, tied, trainable_only=trainable_only)
    # Of an optimizer that is not torch's, nobody knows which state belongs to which parameter.
    optimizer_part = (
        Part(OptimizerState(optimizer, model))
        if isinstance(optimizer, torch.optim.Optimizer)
        else Part(optimizer, Distribution.REQUIRED_PER_RANK)
    )
    parts = {
        "stepper": Part(stepper),
        # Another number of ranks would read some samples twice and others never.
        **{name: Part(position, Distribution.REQUIRED_PER_RANK) for name, position in (data or {}).items()},
        "model": Part(model),
        "optimizer": optimizer_part,
        "lr_scheduler": Part(lr_scheduler),
        # Last of these, because the optimizer unfreezes what it gets back.
        _TRAINED: Part(TrainedParameters(model), is_optional=True),
        "task": Part(task, Distribution.REPLICATED_OR_PER_RANK),
        **_optional_parts(stateful or {}),
        "random": Part(random, Distribution.PER_RANK),
    }
    return JobState(parts, ranks, mapping)


def inference_state(
    ranks: Ranks, *, stepper: Stateful, task: Stateful, random: Stateful, stateful: Mapping[str, Stateful]
) -> JobState:
    """Return the state of an inference run.

    Args:
        ranks: The ranks of the job.
        stepper: Counts the steps.
        task: Has the outputs of this rank, or how far it has written them.
        random: The random number generators of this rank.
        stateful: Registered stateful objects by name, with the same names on all ranks.

    Returns:
        The state, whose parts are loaded in this order.
    """
    parts = {
        "stepper": Part(stepper),
        # Another number of ranks could not tell which outputs exist, and on which rank.
        "task": Part(task, Distribution.REQUIRED_PER_RANK),
        **_optional_parts(stateful),
        "random": Part(random, Distribution.PER_RANK),
    }
    return JobState(parts, ranks)


def find_stateful_objects(
    providers: Mapping[str, object],
    stateful: Mapping[str, Stateful],
    subscribers: Iterable[object],
    *,
    others: Iterable[object],
    modules: Iterable[nn.Module],
    ranks: Ranks,
) -> dict[str, Stateful]:
    """Find the registered objects that have a `state_dict` and a `load_state_dict`.

    All ranks call this. An object that only some ranks have is a part on all of them, and empty on the others.

    Args:
        providers: The providers of the run, by the names under which their state is saved.
        stateful: What users registered by name.
        subscribers: Objects whose methods listen to events. Their state is saved under the names of their classes,
            numbered from the second on.
        others: Objects whose state is saved as something else.
        modules: The stages of the model, whose layers are saved with it.
        ranks: The ranks of the job.

    Returns:
        The objects by name, with the same names on all ranks.
    """
    named = {**providers, **{f"stateful {name}": candidate for name, candidate in stateful.items()}}
    layers = (layer for module in modules for layer in module.modules())
    known = {id(other) for other in itertools.chain(others, layers)}
    found: dict[str, Stateful] = {}
    counts: collections.Counter[str] = collections.Counter()
    for name, candidate in itertools.chain(named.items(), ((None, subscriber) for subscriber in subscribers)):
        if has_state(candidate) and id(candidate) not in known:
            known.add(id(candidate))
            found[name or _subscriber_name(candidate, counts, found)] = candidate
    names = dict.fromkeys(itertools.chain.from_iterable(ranks.gather([*found])))
    return {name: found.get(name, _NoState()) for name in names}


class _NoState:
    """Takes the place of an object that only other ranks have."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load nothing."""


def _optional_parts(stateful: Mapping[str, Stateful]) -> dict[str, Part]:
    # An object that is new, or no longer there, is no reason not to resume.
    return {name: Part(each, Distribution.REPLICATED_OR_PER_RANK, is_optional=True) for name, each in stateful.items()}


def has_state(candidate: object) -> TypeGuard[Stateful]:
    """Return whether an object has state that checkpoints keep."""
    # A class has these methods too, but no state.
    return isinstance(candidate, Stateful) and not isinstance(candidate, type)


def _subscriber_name(subscriber: object, counts: collections.Counter[str], taken: Collection[str]) -> str:
    name = f"subscriber {type(subscriber).__module__}.{type(subscriber).__qualname__}"
    while True:
        counts[name] += 1
        numbered = name if counts[name] == 1 else f"{name} {counts[name]}"
        if numbered not in taken:
            return numbered
