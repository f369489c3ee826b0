"""The complete state of a job: its parts, and how the ranks hold each of them."""

import collections
import dataclasses
import enum
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol, Stateful
from d9d.loop.component.checkpoint.dcp import SavedState
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.sharded_state import ModelState, OptimizerState, ShardedState, is_alike, unite
from d9d.loop.component.checkpoint.state_dict import describe_outline, empty_tensors, join_state, split_state
from d9d.loop.component.ranks import ALONE, Ranks

__all__ = ["Held", "JobState", "Part", "find_participants", "inference_state", "training_state"]


logger = logging.getLogger(__name__)

_ALL_RANKS = "all"


class Held(enum.Enum):
    """How the processes of a job hold a part of its state, which decides what another number of them can do with it."""

    TOGETHER = enum.auto()
    """Each holds a share of it, or all the same: any number of processes goes on from it."""

    ALIKE_OR_APART = enum.auto()
    """As `TOGETHER` where it was the same on all, and as `APART` where it was not."""

    APART = enum.auto()
    """Each has its own: another number of processes begins without it, and says so."""

    APART_AND_NEEDED = enum.auto()
    """Each has its own, and another number of processes is refused."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the state of a job.

    Attributes:
        holder: Whose state it is.
        held: How the processes hold it.
        may_begin_anew: Whether the job goes on from a checkpoint without it.
    """

    holder: Stateful
    held: Held = Held.TOGETHER
    may_begin_anew: bool = False


class JobState:
    """The parts of a job that a checkpoint holds, by name.

    Args:
        parts: The parts, in the order in which they take their state back.
        ranks: The processes of the job, all of which call each method at once.
    """

    def __init__(self, parts: Mapping[str, Part], ranks: Ranks = ALONE) -> None:
        self._parts = dict(parts)
        self._ranks = ranks

    def state_dict(self) -> dict[str, Any]:
        """Return the state that this process holds, under names that no other process uses for anything else.

        Raises:
            Exception: On all processes, if any part fails to tell its state on any of them.
        """
        states = self._ranks.run_on_all_ranks(
            lambda: {name: part.holder.state_dict() for name, part in self._parts.items()}
        )
        return {name: self._keyed(name, part, states[name]) for name, part in self._parts.items()}

    def differing(self) -> set[str]:
        """Return the paths of what all processes hold and need not be the same: buffers, such as statistics."""
        return {
            f"{name}/{buffer}"
            for name, part in self._parts.items()
            if isinstance(part.holder, ModelState)
            for buffer in part.holder.buffer_names()
        }

    def describe(self, *names: str) -> dict[str, Any]:
        """Describe some parts as they stand on all processes: their numbers, and the types and shapes of their tensors.

        Args:
            *names: The parts.

        Returns:
            What lies at each path of their state, in JSON's types; the same however a model is divided.

        Raises:
            StateError: If any part of the job, described or not, holds what a checkpoint cannot keep, or processes
                hold together what is not the same.
        """
        _, outline = unite(self.state_dict(), self._ranks, self.differing())
        wanted = [[name, _summary(self._parts[name].holder, part)] for name, part in outline["dict"] if name in names]
        return describe_outline({"dict": wanted})

    def load(self, saved: SavedState) -> None:
        """Give each part its state back.

        Args:
            saved: The state of all processes.

        Raises:
            CheckpointError: On all processes, if it cannot be read, or needs another number of processes.
            Exception: On all processes, if any part fails to take its state on any of them.
        """
        for name in saved.names() - self._parts.keys():
            self._warn("%s has state of %r, which nobody takes back", saved.folder, name)
        outlines, rooms = self._ranks.run_on_all_ranks(lambda: self._prepare(saved))
        saved.fill(rooms)
        self._ranks.run_on_all_ranks(lambda: self._restore(outlines, rooms))

    def _keyed(self, name: str, part: Part, state: dict[str, Any]) -> dict[str, Any]:
        if part.held is Held.TOGETHER:
            return state
        if part.held is Held.ALIKE_OR_APART and is_alike(state, self._ranks, f"{name}/{_ALL_RANKS}"):
            return {_ALL_RANKS: state}
        return {_key_of(self._ranks.rank): state}

    def _prepare(self, saved: SavedState) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return the outline of each part as far as it concerns this process, and the tensors to read into."""
        outlines: dict[str, Any] = {}
        rooms: dict[str, torch.Tensor] = {}
        for name, part in self._parts.items():
            path = self._path_to(name, part, saved)
            if path is None:
                continue
            outline = saved.outline_at(*path)
            if isinstance(part.holder, ShardedState):
                outline = part.holder.narrow(outline)
                rooms |= part.holder.make_room(outline)
            else:
                own, _ = split_state(part.holder.state_dict(), "/".join(path))
                rooms |= empty_tensors(outline, own)
            outlines[name] = outline
        return outlines, rooms

    def _path_to(self, name: str, part: Part, saved: SavedState) -> tuple[str, ...] | None:
        """Find where the state of a part lies for this process, if anywhere."""
        if part.may_begin_anew and not saved.has(name):
            self._warn("%s has no state of %r, which begins anew", saved.folder, name)
            return None
        if part.held is Held.TOGETHER:
            return (name,)
        if part.held is Held.ALIKE_OR_APART and saved.has(name, _ALL_RANKS):
            return (name, _ALL_RANKS)
        if saved.num_ranks == self._ranks.num_ranks:
            return (name, _key_of(self._ranks.rank))
        if part.held is Held.APART_AND_NEEDED:
            raise CheckpointError(
                f"each of {saved.num_ranks} processes had a state of its own of the {name}, and there are "
                f"{self._ranks.num_ranks} now: go on with {saved.num_ranks}, or begin anew in another folder"
            )
        self._warn(
            "each of %d processes had a state of its own of the part %r, and there are %d now: it begins anew",
            saved.num_ranks,
            name,
            self._ranks.num_ranks,
        )
        return None

    def _warn(self, message: str, *arguments: object) -> None:
        if self._ranks.is_main:
            logger.warning(message, *arguments)

    def _restore(self, outlines: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        for name, outline in outlines.items():
            self._parts[name].holder.load_state_dict(join_state(outline, tensors))


def _key_of(rank: int) -> str:
    return f"rank-{rank}"


def _summary(holder: Stateful, outline: Any) -> Any:
    return holder.summarize(outline) if isinstance(holder, ShardedState) else outline


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
    participants: Mapping[str, Stateful] | None = None,
) -> JobState:
    """Return the state of a training run.

    Args:
        ranks: The processes of the job.
        stepper: Counts the steps.
        modules: The stages of the model that this process holds.
        optimizer: Updates their parameters.
        lr_scheduler: Sets the learning rate.
        task: May carry something of its own.
        random: The random number generators of this process.
        data: What the data of this process needs to go on, by name; nothing where the step alone decides.
        participants: Who else has state, by name; the same names in all processes.

    Returns:
        The state, in the order in which its parts take it back.
    """
    model = ModelState(modules)
    parts = {
        "stepper": Part(stepper),
        # Another number of processes would read some samples twice, and others never.
        **{name: Part(holder, Held.APART_AND_NEEDED) for name, holder in (data or {}).items()},
        "model": Part(model),
        "optimizer": _optimizer_part(optimizer, model),
        "lr_scheduler": Part(lr_scheduler),
        "task": Part(task, Held.ALIKE_OR_APART),
        **_participating(participants or {}),
        "random": Part(random, Held.APART),
    }
    return JobState(parts, ranks)


def inference_state(
    ranks: Ranks, *, stepper: Stateful, task: Stateful, random: Stateful, participants: Mapping[str, Stateful]
) -> JobState:
    """Return the state of an inference run.

    Args:
        ranks: The processes of the job.
        stepper: Counts the steps.
        task: Carries the outputs of this process, or how far it has written them.
        random: The random number generators of this process.
        participants: Who else has state, by name; the same names in all processes.

    Returns:
        The state, in the order in which its parts take it back.
    """
    parts = {
        "stepper": Part(stepper),
        # Another number of processes could not tell which outputs are there and whose they are.
        "task": Part(task, Held.APART_AND_NEEDED),
        **_participating(participants),
        "random": Part(random, Held.APART),
    }
    return JobState(parts, ranks)


def _optimizer_part(optimizer: OptimizerProtocol, model: ModelState) -> Part:
    if isinstance(optimizer, torch.optim.Optimizer):
        return Part(OptimizerState(optimizer, model))
    # Of another kind nothing is known about which state belongs to which parameter.
    return Part(optimizer, Held.APART_AND_NEEDED)


def _participating(holders: Mapping[str, Stateful]) -> dict[str, Part]:
    # Someone who takes part from now on, or no more, is no reason not to go on.
    return {name: Part(holder, Held.ALIKE_OR_APART, may_begin_anew=True) for name, holder in holders.items()}


def find_participants(
    providers: Mapping[str, object],
    stateful: Mapping[str, Stateful],
    subscribers: Iterable[object],
    *,
    others: Iterable[object],
    modules: Iterable[nn.Module],
    ranks: Ranks,
) -> dict[str, Stateful]:
    """Find all that has a `state_dict` and a `load_state_dict`.

    All processes call this. A part that only some of them have is one of all, and empty elsewhere.

    Args:
        providers: What has provided the parts of the run, by the names under which they are saved.
        stateful: What users have named.
        subscribers: Whose methods listen; they are saved under the names of their classes, numbered from the second.
        others: Whose state is saved elsewhere.
        modules: The stages of the model, whose layers are saved with it.
        ranks: The processes of the job.

    Returns:
        Who takes part, by name; the same names in all processes.
    """
    given = {**providers, **{f"stateful {name}": holder for name, holder in stateful.items()}}
    others = [*others, *(layer for module in modules for layer in module.modules())]
    known = {id(other) for other in others}
    found: dict[str, Stateful] = {}
    numbers: collections.Counter[str] = collections.Counter()
    for name, holder in itertools.chain(given.items(), ((None, subscriber) for subscriber in subscribers)):
        if _has_state(holder) and id(holder) not in known:
            known.add(id(holder))
            found[name or _name(holder, numbers)] = holder
    names = dict.fromkeys(itertools.chain.from_iterable(ranks.gather([*found])))
    return {name: found.get(name, _Elsewhere()) for name in names}


class _Elsewhere:
    """Stands for someone who takes part in other processes."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take nothing back."""


def _has_state(holder: object) -> TypeGuard[Stateful]:
    # A class has these methods as well, and no state.
    return isinstance(holder, Stateful) and not isinstance(holder, type)


def _name(subscriber: object, numbers: collections.Counter[str]) -> str:
    name = f"subscriber {type(subscriber).__module__}.{type(subscriber).__qualname__}"
    numbers[name] += 1
    return name if numbers[name] == 1 else f"{name} {numbers[name]}"
