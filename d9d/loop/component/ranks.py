"""The ranks of a job, acting together: an error on one of them is raised on all."""

import pickle
from collections.abc import Callable
from typing import Any, Self, TypeVar

from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException

from d9d.core.dist_context import DistributedContext
from d9d.core.marks import collective, waits_for_device

TValue = TypeVar("TValue")


class Ranks:
    """The ranks of a job. No rank is left waiting for one that has failed.

    All ranks call each method, in the same order. A single process needs no process group.

    Args:
        rank: The rank of this process.
        num_ranks: How many ranks there are.
        group: The process group for collective operations; `None` means the default group.
    """

    def __init__(self, rank: int = 0, num_ranks: int = 1, group: distributed.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.num_ranks = num_ranks
        self.group = group

    @classmethod
    def of(cls, dist_context: DistributedContext) -> Self:
        """Return all ranks of a job."""
        return cls(dist_context.rank, dist_context.world_size)

    @collective
    def with_own_group(self) -> Self:
        """Return the same ranks with a new process group, for use at the same time as other collective operations."""
        if self.is_alone:
            return self
        return type(self)(self.rank, self.num_ranks, distributed.new_group(backend="gloo"))

    @property
    def is_alone(self) -> bool:
        """Whether this is the only rank."""
        return self.num_ranks == 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    @collective
    @waits_for_device
    def gather(self, value: TValue) -> list[TValue]:
        """Return the values of all ranks, by rank.

        Args:
            value: The value of this rank, which must be picklable.
        """
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        distributed.all_gather_object(values, value, group=self.group)
        return values

    @collective
    @waits_for_device
    def run_on_all_ranks(self, work: Callable[[], TValue]) -> TValue:
        """Call a function on each rank.

        Args:
            work: The function of this rank, which uses no collective operation.

        Returns:
            What it returned on this rank.

        Raises:
            Exception: On all ranks, what it raised on the lowest rank on which it failed.
        """
        if self.is_alone:
            return work()
        result, own_error = _attempt(work)
        for rank, error in enumerate(self.gather(_picklable(own_error))):
            if error is not None:
                _raise(error, rank, own_error if rank == self.rank else None)
        return result  # type: ignore[return-value] # no rank failed, so there is a result

    @collective
    @waits_for_device
    def run_on_rank_zero(self, work: Callable[[], TValue]) -> TValue:
        """Call a function on rank 0 and broadcast its result.

        Args:
            work: The function, which uses no collective operation and returns something picklable.

        Returns:
            What it returned, on all ranks.

        Raises:
            Exception: On all ranks, what it raised.
        """
        if self.is_alone:
            return work()
        result, own_error = _attempt(work) if self.is_main else (None, None)
        broadcast = [(result, _picklable(own_error))]
        distributed.broadcast_object_list(broadcast, group=self.group, group_src=0)
        received, error = broadcast[0]
        if error is not None:
            _raise(error, 0, own_error)
        return received  # type: ignore[return-value] # rank 0 did not fail, so there is a result


ALONE = Ranks()
"""The only rank of its job."""


def _attempt(work: Callable[[], TValue]) -> tuple[TValue | None, BaseException | None]:
    try:
        return work(), None
    except (Exception, CheckpointException) as error:  # noqa: BLE001 -- raised on all ranks; torch's is no Exception
        return None, error


def _picklable(error: BaseException | None) -> BaseException | None:
    """Return an error that can be sent to other ranks."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
    except Exception:  # noqa: BLE001 -- the methods of an error may raise anything
        return RuntimeError(f"{type(error).__qualname__}: {error}")
    return error


def _raise(error: BaseException, rank: int, own_error: BaseException | None) -> None:
    error = own_error or error
    error.add_note(f"on rank {rank}")
    raise error
