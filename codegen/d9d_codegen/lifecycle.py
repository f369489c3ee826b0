"""The lifecycle that a module declares: which sequences of events a run may show.

Phases, events and pairs make a regular expression over the ids. A phase is the sequence of its events, and a pair is
one moment: its `pre`, all that stands between, and its `post`. `repeats` puts a `+` behind a phase, an event or a pair,
`optional` a `?`. Since every id occurs once in the expression, what may follow an event depends on that event alone.
Events of an `anytime` phase stand outside of the expression: they may fall anywhere, though a `post` not before its
`pre`. Once a `terminal` phase is through, nothing follows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from d9d_codegen.model import EventSpec, Module, Phase
from d9d_codegen.pair import PRE, other_sides

_START: Final = ""  # stands for the moment before the first event


@dataclass(slots=True)
class _Part:
    """A part of the expression: what it can begin and end with, and whether a run can pass it over."""

    firsts: list[str] = field(default_factory=list)
    lasts: list[str] = field(default_factory=list)
    optional: bool = True


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The grammar of a module's runs.

    Attributes:
        module: The name of the module.
        constants: The constant of each id.
        followers: For each id of the expression, the ids that may come next; for "" those that a run may begin with.
        ends: The ids that a complete run may end with; "" where it may be empty.
        anytime: The ids that may fall anywhere, each with the id that must have come before, if any.
        final: The ids after which nothing follows.
    """

    module: str
    constants: dict[str, str]
    followers: dict[str, list[str]]
    ends: frozenset[str]
    anytime: dict[str, str | None]
    final: frozenset[str]

    @classmethod
    def of(cls, module: Module) -> "Lifecycle":
        """Build the lifecycle of a module without problems."""
        followers: dict[str, list[str]] = {_START: []}
        whole, closing = _Part(), _Part(optional=False)
        anytime: dict[str, str | None] = {}
        final: set[str] = set()
        others = other_sides(module)
        for phase in module.phases:
            events = [event for event in module.own_events if event.phase == phase.name]
            if phase.anytime:
                anytime |= {event.id: _opening(event, others) for event in events}
                final |= {str(event.id) for event in events[-1:] if phase.terminal}
                continue
            part = _phase(phase, events, others, followers)
            whole = _append(whole, part, followers)
            if phase.terminal:
                closing.lasts += part.lasts
                whole.lasts = [last for last in whole.lasts if last not in part.lasts]
        followers[_START] = whole.firsts
        ends = {*whole.lasts, *closing.lasts, *([_START] if whole.optional else [])}
        final |= {last for last in closing.lasts if not followers[last]}
        constants = {str(event.id): str(event.name) for event in module.own_events}
        return cls(module.name, constants, followers, frozenset(ends), anytime, frozenset(final))

    def first_violation(self, ids: Iterable[str], *, complete: bool = False) -> str | None:
        """Say where a run leaves the lifecycle.

        Args:
            ids: The ids of the module's events, in the order in which the run triggered them.
            complete: Whether the run must have come to its end; else it may have been killed at any moment.

        Returns:
            The first event that is out of order, with what could have come instead; nothing for a legal run.
        """
        state, last, seen = _START, "", set[str]()
        for number, event_id in enumerate(ids, start=1):
            problem = self._violation(event_id, state, last, seen)
            if problem:
                return f"event {number} of the run: {problem}"
            state = state if event_id in self.anytime else event_id
            last = event_id
            seen.add(event_id)
        if complete and state not in self.ends and last not in self.final:
            return f"the run ends after {self._named(last) if last else 'no event'}: expected {self._expected(state)}"
        return None

    def _violation(self, event_id: str, state: str, last: str, seen: set[str]) -> str | None:
        if event_id not in self.constants:
            return f'"{event_id}" is no event of {self.module}'
        named = self._named(event_id)
        if last in self.final:
            return f"{named} comes after {self._named(last)}, which nothing follows"
        if event_id in self.anytime:
            opening = self.anytime[event_id]
            return f"{named} comes before {self._named(opening)}" if opening and opening not in seen else None
        if event_id not in self.followers[state]:
            where = f"follow {self._named(state)}" if state else "come first"
            return f"{named} cannot {where}: expected {self._expected(state)}"
        return None

    def _expected(self, state: str) -> str:
        return " or ".join(map(self._named, self.followers[state])) or "nothing more"

    def _named(self, event_id: str) -> str:
        return f'{self.constants[event_id]} ("{event_id}")'


def _opening(event: EventSpec, others: dict[str, EventSpec]) -> str | None:
    other = others.get(event.id)
    return None if other is None or event.id.endswith(PRE) else str(other.id)


def _phase(
    phase: Phase, events: list[EventSpec], others: dict[str, EventSpec], followers: dict[str, list[str]]
) -> _Part:
    """Return the part of a phase; a pair becomes a part of its own within it."""
    open_parts = [_Part()]
    for event in events:
        followers[event.id] = []
        single = _Part([event.id], [event.id], optional=False)
        if event.id not in others:
            open_parts[-1] = _append(open_parts[-1], _flagged(single, event, followers), followers)
        elif event.id.endswith(PRE):
            open_parts.append(single)
        else:
            moment = _append(open_parts.pop(), single, followers)
            open_parts[-1] = _append(open_parts[-1], _flagged(moment, event, followers), followers)
    return _flagged(open_parts[-1], phase, followers)


def _append(before: _Part, after: _Part, followers: dict[str, list[str]]) -> _Part:
    for last in before.lasts:
        followers[last] += after.firsts
    return _Part(
        firsts=before.firsts + after.firsts if before.optional else before.firsts,
        lasts=before.lasts + after.lasts if after.optional else after.lasts,
        optional=before.optional and after.optional,
    )


def _flagged(part: _Part, flags: Phase | EventSpec, followers: dict[str, list[str]]) -> _Part:
    if flags.repeats:
        for last in part.lasts:
            followers[last] += [first for first in part.firsts if first not in followers[last]]
    return _Part(part.firsts, part.lasts, part.optional or flags.optional)
