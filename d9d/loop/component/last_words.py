"""What the ranks of a job tell one another when they end, through the store that they met at."""

import datetime as dt
from typing import Self

from torch import distributed
from torch.distributed import Store  # type: ignore[attr-defined] # torch exports it in effect

from d9d.core.dist_context.process_group import job_store

_STORE_TIMEOUT = dt.timedelta(seconds=3)
_CAUSE = "last-words/cause"
_NUM_TOLD = "last-words/num-told"
_NUM_SPEAKERS = "last-words/num-speakers"


class LastWords:
    """Tells the others how this rank ends, and knows what they told; no process waits for another in it.

    Args:
        store: Where they are kept; belongs to this object alone, since another's wait would delay it.
        rank: The index of this process, from 0.
        num_ranks: How many there are.
    """

    def __init__(self, store: Store, rank: int, num_ranks: int) -> None:
        store.set_timeout(_STORE_TIMEOUT)
        self._store = store
        self.rank = rank
        self.num_ranks = num_ranks

    @classmethod
    def of_job(cls) -> Self | None:
        """Return those of this process, if it has met others."""
        store = job_store()
        if store is None or not distributed.is_initialized():
            return None
        return cls(store, distributed.get_rank(), distributed.get_world_size())

    @property
    def cause(self) -> str | None:
        """What made the job fail, as the first rank told it that knows; `None` while none does."""
        return self._store.get(_CAUSE).decode() if self._store.check([_CAUSE]) else None

    @property
    def silent(self) -> list[int]:
        """The ranks that have told nothing, which run on, hang, or were killed."""
        return [rank for rank in range(self.num_ranks) if not self._store.check([_told(rank)])]

    @property
    def have_all_told(self) -> bool:
        """Whether every rank has told that it ends."""
        return self._store.add(_NUM_TOLD, 0) >= self.num_ranks

    def tell(self, cause: str | None = None) -> None:
        """Tell that this rank ends; telling it twice is telling it once.

        Args:
            cause: Why, if it is this rank's own failure.
        """
        if cause is not None:
            self._store.compare_set(_CAUSE, "", cause)
        # All that a key has been added to tells; only the first of them is counted.
        if self._store.add(_told(self.rank), 1) == 1:
            self._store.add(_NUM_TOLD, 1)

    def claim(self) -> bool:
        """Return whether this rank is the first that asks, and so the one that speaks for all."""
        return bool(self._store.add(_NUM_SPEAKERS, 1) == 1)


def _told(rank: int) -> str:
    return f"last-words/told-{rank}"
