"""The lifecycle of a module: which sequences of events a run may show.

Phases, events and pairs form a regular expression over ids. A phase is the sequence of its events. A pair, `X.pre` and
`X.post`, is one moment: its `pre`, everything in between, and its `post`. `repeats` adds a `+` to a phase, an event or
a pair, `optional` a `?`. Since each id occurs once in the expression, what may follow an event depends on that event
alone. Events of an `anytime` phase are outside the expression: they may fall anywhere, but a `post` not before its
`pre`. Nothing follows a `terminal` phase.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from d9d_codegen.catalogue import EventSpec, Module, Phase

PRE: Final = ".pre"
POST: Final = ".post"


@dataclass(slots=True)
class Pair:
    """The declared sides of one moment."""

    pre: EventSpec | None = None
    post: EventSpec | None = None


def stem(event_id: str) -> str | None:
    """Return the moment that an event is a side of, or None."""
    if event_id.endswith((PRE, POST)):
        return event_id.rpartition(".")[0]
    return None


def pairs(module: Module) -> dict[str, Pair]:
    """Return the pairs of a module by stem, in the order in which they begin, incomplete ones included."""
    found: dict[str, Pair] = {}
    for event in module.own_events:
        moment = stem(event.id)
        if moment is None:
            continue
        pair = found.setdefault(moment, Pair())
        if event.id.endswith(PRE):
            pair.pre = pair.pre or event
        else:
            pair.post = pair.post or event
    return found


def other_sides(module: Module) -> dict[str, EventSpec]:
    """Return, for the id of each side of a pair, the event on the other side."""
    sides = {}
    for pair in pairs(module).values():
        if pair.pre and pair.post:
            sides[str(pair.pre.id)] = pair.post
            sides[str(pair.post.id)] = pair.pre
    return sides


_START: Final = ""  # the state before the first event


@dataclass(slots=True)
class _Part:
    """A part of the expression: the ids that it can begin and end with, and whether a run can skip it."""

    firsts: list[str] = field(default_factory=list)
    lasts: list[str] = field(default_factory=list)
    optional: bool = True


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The grammar of a module's runs.

    Attributes:
        module: The name of the module.
        constants: The constant of each id.
        followers: For each id of the expression, the ids that may come next; for "", those that a run may begin with.
        ends: The ids that a complete run may end with; "" where it may be empty.
        anytime: The ids that may fall anywhere, each with the id that must come before it, if any.
        final: The ids that nothing follows.
    """

    module: str
    constants: dict[str, str]
    followers: dict[str, list[str]]
    ends: frozenset[str]
    anytime: dict[str, str | None]
    final: frozenset[str]

    @classmethod
    def of(cls, module: Module) -> "Lifecycle":
        """Build the lifecycle of a valid module."""
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
        """Return where a run leaves the lifecycle.

        Args:
            ids: The ids of the module's events, in the order in which the run triggered them.
            complete: Whether the run must have reached its end; otherwise it may have been killed at any moment.

        Returns:
            The first event that is out of order, with what could have come instead; None for a legal run.
        """
        state, last, seen = _START, "", set[str]()
        for number, event_id in enumerate(ids, start=1):
            diagnostic = self._violation(event_id, state, last, seen)
            if diagnostic:
                return f"event {number} of the run: {diagnostic}"
            state = state if event_id in self.anytime else event_id
            last = event_id
            seen.add(event_id)
        if complete and state not in self.ends and last not in self.final:
            so_far = f"ends after {self._named(last)}" if last else "has no events"
            return f"the run {so_far}: expected {self._expected(state)}"
        return None

    def _violation(self, event_id: str, state: str, last: str, seen: set[str]) -> str | None:
        if event_id not in self.constants:
            return f'"{event_id}" is not an event of {self.module}'
        named = self._named(event_id)
        if last in self.final:
            return f"{named} comes after {self._named(last)}, which ends the run"
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
    """Return the part of a phase; each pair becomes a part within it."""
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


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What a run may show directly before and after an event, ignoring events of `anytime` phases.

    Attributes:
        before: The ids that may come directly before it.
        after: The ids that may come directly after it.
        begins: Whether a run may begin with it.
        ends: Whether a complete run may end with it.
        opening: For an event of an `anytime` phase, the id that must come before it, if any.
        is_anytime: Whether it may fall between any two others.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    begins: bool
    ends: bool
    opening: str | None
    is_anytime: bool


def grammar(module: Module) -> dict[str, object]:
    """Return the lifecycle of a module as plain data, for tools that do not import this compiler.

    A run begins with one of `first`; after an event comes one of its `followers`; a complete run ends with one of
    `last`, or is empty where `may_be_empty`. Ids of `anytime` fall anywhere, each only after the id that it names.
    Nothing follows an id of `final`.
    """
    lifecycle = Lifecycle.of(module)
    ids = [str(event.id) for event in module.own_events]
    return {
        "first": _unique(lifecycle.followers[""]),
        "followers": {
            event_id: _unique(lifecycle.followers[event_id]) for event_id in ids if event_id in lifecycle.followers
        },
        "last": [event_id for event_id in ids if event_id in lifecycle.ends],
        "may_be_empty": "" in lifecycle.ends,
        "anytime": lifecycle.anytime,
        "final": [event_id for event_id in ids if event_id in lifecycle.final],
    }


def neighbours(module: Module) -> dict[str, Neighbours]:
    """Return what can come directly before and after each event of a module, by id."""
    lifecycle = Lifecycle.of(module)
    before: dict[str, list[str]] = {str(event.id): [] for event in module.own_events}
    for event_id, followers in lifecycle.followers.items():
        for follower in followers if event_id else []:
            before[follower].append(event_id)
    return {
        event_id: Neighbours(
            before=tuple(_unique(before[event_id])),
            after=tuple(_unique(lifecycle.followers.get(event_id, []))),
            begins=event_id in lifecycle.followers[""],
            ends=event_id in lifecycle.ends or event_id in lifecycle.final,
            opening=lifecycle.anytime.get(event_id),
            is_anytime=event_id in lifecycle.anytime,
        )
        for event_id in before
    }


def _unique(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))
