"""What the ranks of a job tell one another when they end, through the store that they met at."""

import datetime as dt
from collections.abc import Sequence
from typing import Self

from d9d.core.dist_context.process_group import MeetingPlace, meeting_place

_STORE_TIMEOUT = dt.timedelta(seconds=3)
_CAUSE = "last-words/cause"
_BLAMED = "last-words/blamed"
_NUM_TOLD = "last-words/num-told"
_NUM_SPEAKERS = "last-words/num-speakers"


class LastWords:
    """Tells the others how this rank ends, and knows what they told; no process waits for another in it.

    Args:
        place: Where they are kept; the connection belongs to this object alone, since another's wait would delay it.
    """

    def __init__(self, place: MeetingPlace) -> None:
        place.store.set_timeout(_STORE_TIMEOUT)
        self._store = place.store
        self.rank = place.rank
        self.num_ranks = place.num_ranks

    @classmethod
    def of_job(cls) -> Self | None:
        """Return those of this process, if it has met others."""
        place = meeting_place()
        return None if place is None else cls(place)

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

    @property
    def is_blamed(self) -> bool:
        """Whether others have given up since this rank told nothing."""
        return self._store.check([_BLAMED]) and str(self.rank) in self._store.get(_BLAMED).decode().split()

    def blame(self, ranks: Sequence[int], cause: str) -> None:
        """Tell that others are the cause.

        Args:
            ranks: Those that told nothing.
            cause: What is known.
        """
        self._store.set(_BLAMED, " ".join(str(rank) for rank in ranks))
        self._store.compare_set(_CAUSE, "", cause)

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
