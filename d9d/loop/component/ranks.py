"""The processes of a job, as those who must agree: what fails on one fails on all, in the same words."""

import pickle
import sys
from collections.abc import Callable
from typing import Any, Self, TypeVar

from torch import distributed

from d9d.core.dist_context import DistributedContext

TValue = TypeVar("TValue")


class Ranks:
    """Has the processes of a job work together, with no process left waiting for one that failed.

    Every method is called by all of them, in the same order. A process alone needs no process group.

    Args:
        rank: The index of this process, from 0.
        num_ranks: How many there are.
        group: Through which they speak; `None` means the group of the whole job.
    """

    def __init__(self, rank: int = 0, num_ranks: int = 1, group: distributed.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.num_ranks = num_ranks
        self.group = group

    @classmethod
    def of(cls, dist_context: DistributedContext) -> Self:
        """Return all processes of a job."""
        return cls(dist_context.rank, dist_context.world_size)

    def with_own_group(self) -> Self:
        """Return the same processes, who speak through a group of their own, beside whatever else they say."""
        if self.is_alone:
            return self
        return type(self)(self.rank, self.num_ranks, distributed.new_group(backend="gloo"))

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.num_ranks == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that decides, and writes what is written once."""
        return self.rank == 0

    def gather(self, value: TValue) -> list[TValue]:
        """Return the values of all processes, by rank."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def run_on_all_ranks(self, work: Callable[[], TValue]) -> TValue:
        """Have each process do something of its own.

        Args:
            work: What this process does; speaks to no other.

        Returns:
            What it returned here.

        Raises:
            Exception: On all processes, what the first of them raised that failed.
        """
        if self.is_alone:
            return work()
        result, failure = _attempt(work)
        for rank, failed in enumerate(self.gather(_portable(failure))):
            if failed is not None:
                _fail(failed, rank, failure if rank == self.rank else None)
        return result  # type: ignore[return-value] # nobody failed, so it is there

    def run_on_rank_zero(self, work: Callable[[], TValue]) -> TValue:
        """Have the main process do something for all.

        Args:
            work: What it does; returns what can be pickled, and speaks to no other.

        Returns:
            What it returned there, on all processes.

        Raises:
            Exception: On all processes, what it raised.
        """
        if self.is_alone:
            return work()
        result, failure = _attempt(work) if self.is_main else (None, None)
        answer = [(result, _portable(failure))]
        distributed.broadcast_object_list(answer, group=self.group, group_src=0)
        received, failed = answer[0]
        if failed is not None:
            _fail(failed, 0, failure)
        return received  # type: ignore[return-value] # it did not fail, so it is there


ALONE = Ranks()
"""A process that is its whole job."""


def or_checkpoint_exception(*kinds: type[BaseException]) -> tuple[type[BaseException], ...]:
    """Return kinds of errors to catch, and with them what torch's checkpoints raise, which is no `Exception`.

    Where nobody has loaded them, nobody raises it, and they are not loaded for it.

    Args:
        kinds: The others.
    """
    api: Any = sys.modules.get("torch.distributed.checkpoint.api")
    return kinds if api is None else (*kinds, api.CheckpointException)


def _attempt(work: Callable[[], TValue]) -> tuple[TValue | None, BaseException | None]:
    try:
        return work(), None
    except or_checkpoint_exception(Exception) as error:
        return None, error


def _portable(error: BaseException | None) -> BaseException | None:
    """Return an error that survives the way to other processes."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
    except Exception:  # noqa: BLE001 -- whatever an error's own methods raise
        return RuntimeError(f"{type(error).__qualname__}: {error}")
    return error


def _fail(error: BaseException, rank: int, own: BaseException | None) -> None:
    error = own or error
    error.add_note(f"on rank {rank}")
    raise error
