"""What a name that nobody knows most likely means.

Comparing two names letter by letter is slow. Of many known names only those are compared that stand beside the unknown
one when all are sorted by their beginnings, or by their ends: a slip of the pen leaves one of the two as it was.
"""

from bisect import bisect_left
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from itertools import takewhile
from typing import Final

_MAX_COMPARED: Final = 50  # of so few names all are compared
_NUM_BESIDE: Final = 12
_NUM_ALIKE: Final = 6
_NUM_SHOWN: Final = 10
_CLOSE: Final = 0.6  # difflib's own


class _Known:
    """Names that somebody knows, sorted by their beginnings and by their ends."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_beginning = sorted(set(map(str, names)))
        self._by_end = (
            sorted(name[::-1] for name in self._by_beginning) if len(self._by_beginning) > _MAX_COMPARED else []
        )
        self._found: dict[tuple[str, float], str | None] = {}

    def closest(self, name: str, cutoff: float) -> str | None:
        """Return the name that comes nearest, if any comes near."""
        key = (str(name), cutoff)
        if key not in self._found:
            self._found[key] = next(iter(get_close_matches(name, self._candidates(name), n=1, cutoff=cutoff)), None)
        return self._found[key]

    def _candidates(self, name: str) -> list[str]:
        if not self._by_end:
            return self._by_beginning
        beside = {*_beside(name, self._by_beginning), *(other[::-1] for other in _beside(name[::-1], self._by_end))}
        return sorted(beside, key=lambda other: (-_num_shared(name, other), other))[:_NUM_ALIKE]


def closest(name: str, known: Iterable[str], cutoff: float = _CLOSE) -> str | None:
    """Return the known name that `name` most likely means, if any comes near.

    Args:
        name: A name that is not known.
        known: Those that are.
        cutoff: How near it has to be, from 0 to 1.
    """
    return _known(tuple(known)).closest(name, cutoff)


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the question whether a close match was meant, or what to do where nothing comes near."""
    match = closest(name, known)
    return f'did you mean "{match}"?' if match else otherwise


def some_of(names: Iterable[str]) -> str:
    """Return names for a message: all of a few, the first of many."""
    shown = list(names)
    more = ["…"] if len(shown) > _NUM_SHOWN else []
    return ", ".join([*shown[:_NUM_SHOWN], *more])


@lru_cache(maxsize=8)
def _known(names: tuple[str, ...]) -> _Known:
    return _Known(names)


def _beside(name: str, ordered: list[str]) -> list[str]:
    at = bisect_left(ordered, name)
    return ordered[max(0, at - _NUM_BESIDE) : at + _NUM_BESIDE]


def _num_shared(one: str, other: str) -> int:
    """Return the number of letters that two names begin and end with alike."""
    pairs, reversed_pairs = zip(one, other, strict=False), zip(reversed(one), reversed(other), strict=False)
    return sum(sum(1 for _ in takewhile(_is_same, each)) for each in (pairs, reversed_pairs))


def _is_same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
