"""The lifecycle of a module: which sequences of events a run may show.

Phases, events, pairs and brackets form a regular expression over ids:

- A phase is the sequence of its events, or, with `any_order`, all of them in any order.
- A pair (`X.pre` and `X.post`) is its two sides and everything between them; so is a bracket, whose closing event says
  `ends: EVENT_X`.
- `repeats` adds a `+` to a phase, an event, a pair or a bracket, `optional` a `?`.
- Phases that are `around` a phase may stand before, between and after its runs.
- From any moment of a run an `aborts` phase may follow, and then only a terminal phase; a terminal phase that is
  `anytime` may follow directly. Nothing follows a `terminal` phase, and if there is one, every complete run ends in it.

Outside the expression are the events of other `anytime` phases, which may fall anywhere, and `after: EVENT_X`, which
forbids an event until `EVENT_X` was triggered.

`Lifecycle` is the automaton of all this. It judges recorded runs and the flow of source code; `grammar` and
`neighbours` say for the index and the pages what may follow what.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

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


def closings(module: Module) -> dict[str, EventSpec]:
    """Return, for the id of each event that opens a pair or a bracket, the event that closes it."""
    found = {str(pair.pre.id): pair.post for pair in pairs(module).values() if pair.pre and pair.post}
    events = {str(event.name): event for event in module.own_events}
    for event in module.own_events:
        opening = events.get(event.ends or "")
        if opening is not None and opening is not event:
            found.setdefault(str(opening.id), event)
    return found


class _Leaf(NamedTuple):
    """One event."""

    id: str


@dataclass(eq=False, slots=True)
class _Sequence:
    """Parts one after the other."""

    parts: "list[_Part]" = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Flagged:
    """A part that may be skipped, or come again."""

    part: "_Part"
    repeats: bool
    optional: bool


@dataclass(eq=False, slots=True)
class _AnyOrder:
    """Parts in any order, each as often as its flags say."""

    parts: list[_Flagged]


@dataclass(eq=False, slots=True)
class _Terminal:
    """A part that nothing follows."""

    part: "_Part"


_Part = _Leaf | _Sequence | _Flagged | _AnyOrder | _Terminal


class _Expression:
    """The regular expression of a module.

    Attributes:
        whole: All of it but the jumps.
        jumps: What may follow any event: each `aborts` phase with each terminal phase behind it, and each terminal
            phase that is also `anytime`.
    """

    def __init__(self, module: Module) -> None:
        self._closings = closings(module)
        self._closed = {str(closing.id): opening for opening, closing in self._closings.items()}
        self._events: dict[str, list[EventSpec]] = {str(phase.name): [] for phase in module.phases}
        for event in module.own_events:
            self._events.setdefault(event.phase, []).append(event)
        self.whole = _Sequence()
        self.jumps: list[_Sequence] = []
        ordered = [phase for phase in module.phases if not phase.around and (phase.terminal or not phase.anytime)]
        bodies = {str(phase.name): self._body(phase) for phase in ordered}
        terminal = [_Terminal(bodies[phase.name]) for phase in ordered if phase.terminal]
        for phase in ordered:
            body = bodies[phase.name]
            if phase.terminal and (phase.anytime or phase.aborts):
                self.jumps.append(_Sequence([_Terminal(body)]))
            elif phase.aborts:
                self.jumps += [_Sequence([body, end]) for end in terminal] or [_Sequence([_Terminal(body)])]
            else:
                around = [other for other in module.phases if other.around == phase.name]
                self.whole.parts.append(self._placed(phase, body, around))

    def _placed(self, phase: Phase, body: _Part, around: list[Phase]) -> _Part:
        if around:
            gap = _any_order([_Flagged(self._body(each), each.repeats, optional=True) for each in around])
            return _Sequence([gap, _Flagged(_Sequence([body, gap]), phase.repeats, phase.optional)])
        placed = _Terminal(body) if phase.terminal else body
        return _Flagged(placed, phase.repeats, phase.optional)

    def _body(self, phase: Phase) -> _Part:
        """Return the part of a phase; each pair and each bracket becomes a part within it."""
        open_parts: list[list[_Part]] = [[]]
        for event in self._events[phase.name]:
            leaf = _Leaf(event.id)
            if event.id in self._closings:
                open_parts.append([leaf])
            elif event.id in self._closed and len(open_parts) > 1:
                moment = _Sequence([*open_parts.pop(), leaf])
                open_parts[-1].append(_Flagged(moment, event.repeats, event.optional))
            else:
                open_parts[-1].append(_Flagged(leaf, event.repeats, event.optional))
        parts = [part for parts in open_parts for part in parts]
        flagged = [part for part in parts if isinstance(part, _Flagged)]
        return _any_order(flagged) if phase.any_order and len(flagged) == len(parts) else _Sequence(parts)


def _any_order(parts: list[_Flagged]) -> _Part:
    return parts[0] if len(parts) == 1 else _AnyOrder(parts)


_OUT: Final = 0  # past the end of the expression
_OVER: Final = 1  # past a terminal phase
_FREE: Final = frozenset([-1])  # what has any order has begun, and nothing of it is to be remembered
_Detail = int | frozenset[int] | None


class _Positions:
    """The positions within an expression, as numbers. A position is a part, how much of it is done, and what follows.

    Args:
        expression: The expression.
        forgets: Whether only the last part of what has any order is remembered. What may follow what directly is the
            same then, and the number of positions is at most the square of the number of events.
    """

    def __init__(self, expression: _Expression, *, forgets: bool = False) -> None:
        self._forgets = forgets
        self._numbers: dict[tuple[_Part, _Detail, int], int] = {}
        self._positions: list[tuple[_Part, _Detail, int]] = [(_Sequence(), None, _OUT)] * 2
        self._moves: dict[int, tuple[dict[str, list[int]], frozenset[int]]] = {_OUT: ({}, frozenset([_OUT]))}
        self._moves[_OVER] = {}, frozenset([_OVER])
        self.start = self._number(expression.whole, None, _OUT)
        self.jumps = [self._number(jump, None, _OVER) for jump in expression.jumps]

    def moves(self, position: int) -> dict[str, list[int]]:
        """Return the ids that may come at a position, and the positions after each."""
        return self._explored(position)[0]

    def ends(self, position: int) -> frozenset[int]:
        """Return which of the two ends can be reached without another event."""
        return self._explored(position)[1]

    def is_over(self, position: int) -> bool:
        """Return whether nothing can follow at a position, since a terminal phase has ended the run."""
        return position == _OVER or (not self.moves(position) and self.ends(position) == {_OVER})

    def _number(self, part: _Part, detail: _Detail, rest: int) -> int:
        key = (part, detail, rest)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._positions)
            self._positions.append(key)
        return number

    def _explored(self, position: int) -> tuple[dict[str, list[int]], frozenset[int]]:
        found = self._moves.get(position)
        if found is None:
            found = self._moves[position] = self._explore(position)
        return found

    def _explore(self, position: int) -> tuple[dict[str, list[int]], frozenset[int]]:
        moves: dict[str, list[int]] = {}
        ends: set[int] = set()
        waiting, seen = [position], {position}
        begun: set[tuple[_Part, int]] = set()
        while waiting:
            at = waiting.pop()
            if at in (_OUT, _OVER):
                ends.add(at)
                continue
            part, detail, rest = self._positions[at]
            if self._forgets and isinstance(part, _AnyOrder):
                # A part of it has passed without an event: that must not make what came before forgotten.
                if detail is not None and (part, rest) in begun:
                    continue
                begun.add((part, rest))
            if isinstance(part, _Leaf):
                moves.setdefault(part.id, []).append(rest)
                continue
            for inner in self._within(part, detail, rest):
                if inner not in seen:
                    seen.add(inner)
                    waiting.append(inner)
        return moves, frozenset(ends)

    def _within(self, part: _Part, detail: _Detail, rest: int) -> Iterator[int]:
        """Yield the positions that a position stands for without any event."""
        match part:
            case _Sequence(parts=parts):
                at = detail if isinstance(detail, int) else 0
                if at == len(parts):
                    yield rest
                else:
                    follows = rest if at + 1 == len(parts) else self._number(part, at + 1, rest)
                    yield self._number(parts[at], None, follows)
            case _Flagged(part=inner, repeats=repeats, optional=optional):
                if detail is None or repeats:
                    yield self._number(inner, None, self._number(part, 1, rest) if repeats else rest)
                if optional or detail is not None:
                    yield rest
            case _AnyOrder(parts=parts):
                yield from self._in_any_order(part, parts, detail, rest)
            case _Terminal(part=inner):
                yield self._number(inner, None, _OVER)
            case _Leaf():
                return

    def _in_any_order(self, part: _Part, parts: list[_Flagged], detail: _Detail, rest: int) -> Iterator[int]:
        done = detail if isinstance(detail, frozenset) else frozenset()
        for at, each in enumerate(parts):
            if at not in done or each.repeats:
                after = self._number(part, self._done(parts, done, at), rest)
                yield self._number(each.part, None, after)
        is_required = {at for at, each in enumerate(parts) if not each.optional}
        if is_required <= done or (self._forgets and done):
            yield rest

    def _done(self, parts: list[_Flagged], done: frozenset[int], at: int) -> frozenset[int]:
        """Return what is to be remembered after a part: what must not come again, and what was required."""
        is_free = parts[at].optional and parts[at].repeats
        if self._forgets:
            return _FREE if is_free else frozenset([at])
        return done if is_free else done | {at}


class State(NamedTuple):
    """A moment of a run.

    Attributes:
        positions: The positions in the expression at which the run may be.
        triggered: The events that others must come after and that were triggered.
        opened: The events of `anytime` phases that opened what is not closed yet.
        is_aborted: Whether an `aborts` phase has begun, or a terminal phase out of the order.
    """

    positions: frozenset[int]
    triggered: frozenset[str] = frozenset()
    opened: frozenset[str] = frozenset()
    is_aborted: bool = False


class Lifecycle:
    """The automaton of a module's runs.

    Args:
        module: A valid module.
        forgets: Whether states stand for all ways in which a run may have reached them, as source code shows them: of
            what has any order only the last part is remembered, and a pair at any time may be open already.

    Attributes:
        module: The name of the module.
        constants: The constant of each id, in the order of the catalogue.
        start: The state before the first event.
        anytime: The ids that may fall anywhere, each with the id that must come before it, if any.
        after: For each id that says `after`, the id that must come before it.
        openings: For each id that closes a pair or a bracket, the id that opens it.
        closings: The reverse.
    """

    def __init__(self, module: Module, *, forgets: bool = False) -> None:
        self._module = module
        self.module = str(module.name)
        self.constants = {str(event.id): str(event.name) for event in module.own_events}
        self.closings = {opening: str(closing.id) for opening, closing in closings(module).items()}
        self.openings = {closing: opening for opening, closing in self.closings.items()}
        ids = {str(event.name): str(event.id) for event in module.own_events}
        self.after = {str(event.id): ids[event.after] for event in module.own_events if event.after in ids}
        phases = {str(phase.name): phase for phase in module.phases}
        phase_of = {str(event.id): phases[event.phase] for event in module.own_events if event.phase in phases}
        self.anytime = {
            event_id: self.openings.get(event_id)
            for event_id, phase in phase_of.items()
            if phase.anytime and not phase.terminal
        }
        self._terminal = frozenset(event_id for event_id, phase in phase_of.items() if phase.terminal)
        self._forgets = forgets
        self._positions = _Positions(_Expression(module), forgets=forgets)
        self._targets = frozenset(self.after.values())
        self._steps: dict[tuple[State, str], State | None] = {}
        self.start = State(frozenset([self._positions.start]))

    @classmethod
    def of(cls, module: Module) -> "Lifecycle":
        """Return the lifecycle of a valid module; several outputs of one module need it."""
        return _built(module)

    @property
    def followers(self) -> dict[str, list[str]]:
        """For each id in the expression, the ids that may come directly after it; for "", those that come first."""
        found = self.neighbourhood
        return {"": found.first, **found.followers}

    @cached_property
    def neighbourhood(self) -> "Neighbourhood":
        """What may follow what directly."""
        return Neighbourhood(self, self._module)

    def step(self, state: State, event_id: str) -> State | None:
        """Return the state after an event; None where the event cannot come."""
        key = (state, event_id)
        if key not in self._steps:
            self._steps[key] = self._step(state, event_id)
        return self._steps[key]

    def _step(self, state: State, event_id: str) -> State | None:
        if self.is_over(state) or self._missing(state, event_id):
            return None
        triggered = state.triggered | ({event_id} & self._targets)
        if event_id in self.anytime:
            opened = self._toggled(state.opened, event_id)
            return None if opened is None else state._replace(triggered=triggered, opened=opened)
        positions = self._moved(state.positions, event_id)
        if positions:
            return state._replace(positions=positions, triggered=triggered)
        jumped = frozenset[int]() if state.is_aborted else self._moved(self._positions.jumps, event_id)
        if jumped:
            return state._replace(positions=jumped, triggered=triggered, is_aborted=True)
        return None

    def _toggled(self, opened: frozenset[str], event_id: str) -> frozenset[str] | None:
        """Return which pairs are open after an event of an `anytime` phase; None where it cannot come."""
        opening = self.anytime[event_id]
        if opening:
            return opened - {opening} if opening in opened else None
        if event_id in self.closings:
            return opened | {event_id} if self._forgets or event_id not in opened else None
        return opened

    def _moved(self, positions: Iterable[int], event_id: str) -> frozenset[int]:
        return frozenset(after for at in positions for after in self._positions.moves(at).get(event_id, ()))

    def _missing(self, state: State, event_id: str) -> str | None:
        """Return the event that must come before another one and has not."""
        target = self.after.get(event_id)
        return target if target and target not in state.triggered else None

    def is_over(self, state: State) -> bool:
        """Return whether nothing can follow."""
        return all(map(self._positions.is_over, state.positions))

    def is_complete(self, state: State) -> bool:
        """Return whether a run may end here."""
        end = _OVER if self._terminal or state.is_aborted else _OUT
        return any(end in self._positions.ends(at) for at in state.positions)

    def expected(self, state: State) -> list[str]:
        """Return the ids that may come next in the declared order, in the order of the catalogue."""
        found = {event_id for at in state.positions for event_id in self._positions.moves(at)}
        if not state.is_aborted and not self.is_over(state):
            jumps = {event_id for at in self._positions.jumps for event_id in self._positions.moves(at)}
            found |= jumps & self._terminal
        return [event_id for event_id in self.constants if event_id in found and not self._missing(state, event_id)]

    def first_violation(self, ids: Iterable[str], *, complete: bool = False) -> str | None:
        """Return where a run leaves the lifecycle.

        Args:
            ids: The ids of the module's events, in the order in which the run triggered them.
            complete: Whether the run must have reached its end; otherwise it may have been killed at any moment.

        Returns:
            The first event that is out of order, with what could have come instead; None for a legal run.
        """
        state, last, last_in_order = self.start, "", ""
        for number, event_id in enumerate(ids, start=1):
            following = self.step(state, event_id)
            if following is None:
                return f"event {number} of the run: {self._refusal(state, event_id, last, last_in_order)}"
            state, last = following, event_id
            last_in_order = last_in_order if event_id in self.anytime else event_id
        if complete and not self.is_complete(state):
            so_far = f"ends after {self.named(last)}" if last else "has no events"
            return f"the run {so_far}: expected {self._either(state)}"
        return None

    def _refusal(self, state: State, event_id: str, last: str, last_in_order: str) -> str:
        """Return why an event cannot come."""
        if event_id not in self.constants:
            return f'"{event_id}" is not an event of {self.module}'
        named = self.named(event_id)
        if self.is_over(state):
            return f"{named} comes after {self.named(last)}, which ends the run"
        missing = self._missing(state, event_id)
        if missing:
            return f"{named} comes before {self.named(missing)}"
        if event_id in self.anytime:
            opening = self.anytime[event_id]
            return (
                f"{named} comes before {self.named(opening)}"
                if opening
                else f"{named} comes again before {self.named(self.closings[event_id])}"
            )
        where = f"follow {self.named(last_in_order)}" if last_in_order else "come first"
        return f"{named} cannot {where}: expected {self._either(state)}"

    def _either(self, state: State) -> str:
        return " or ".join(map(self.named, self.expected(state))) or "nothing more"

    def named(self, event_id: str) -> str:
        """Return an event as messages name it: its constant and its id."""
        return f'{self.constants[event_id]} ("{event_id}")'


@lru_cache(maxsize=4)
def _built(module: Module) -> Lifecycle:
    return Lifecycle(module)


class Neighbourhood:
    """What may follow what directly in the runs of a module.

    Args:
        lifecycle: The lifecycle of the module.
        module: The module.

    Attributes:
        first: What a run may begin with, in the order of the catalogue; without jumps.
        followers: For each id in the expression, what may come directly after it; without jumps.
        jumps: What may follow any id of `leaves`, and begin a run.
        leaves: The ids that a jump may follow.
        last: The ids that a complete run may end with.
        final: The ids that nothing follows.
        impossible: The ids that come only before the event that they must come after.
    """

    def __init__(self, lifecycle: Lifecycle, module: Module) -> None:
        self._lifecycle = lifecycle
        expression = _Expression(module)
        self._positions = _Positions(expression, forgets=True)
        # First as if each `after` were fulfilled, then only where it is: what fulfils it must be possible itself.
        self._allowed: set[tuple[int, str]] | None = None
        late = {event_id for _, event_id in self._late()}
        self.impossible = {*lifecycle.after} - late - lifecycle.anytime.keys()
        self._allowed = set()
        while more := self._late() - self._allowed:
            self._allowed |= more
        in_order, everywhere = self._reached([self._positions.start]), self._reached(self._starts)
        order = {event_id: at for at, event_id in enumerate(lifecycle.constants)}
        entered: dict[str, set[int]] = {}
        for at in everywhere:
            for event_id, after in self._moves(at):
                entered.setdefault(event_id, set()).update(after)
        self.first = sorted((event_id for event_id, _ in self._moves(self._positions.start)), key=order.__getitem__)
        self.followers = {
            event_id: sorted({each for at in entered[event_id] for each, _ in self._moves(at)}, key=order.__getitem__)
            for event_id in sorted(entered, key=order.__getitem__)
        }
        jumps = {event_id for at in self._positions.jumps for event_id, _ in self._moves(at)}
        self.jumps = sorted(jumps, key=order.__getitem__)
        self.leaves = [
            event_id
            for event_id in self.followers
            if any(at in in_order and not self._positions.is_over(at) for at in entered[event_id])
        ]
        has_terminal = any(phase.terminal for phase in module.phases)
        self.last = [
            event_id
            for event_id in self.followers
            if any(self._is_end(at, has_terminal=has_terminal) for at in entered[event_id])
        ]
        self.may_be_empty = self._is_end(self._positions.start, has_terminal=has_terminal)
        self.final = [event_id for event_id in self.followers if all(map(self._positions.is_over, entered[event_id]))]

    def behind(self, target: str) -> set[str]:
        """Return the ids that may come after an event, directly or later, with itself; all if it may fall anywhere."""
        if target in self._lifecycle.anytime:
            return {*self.followers}
        found, waiting = {target}, [target]
        while waiting:
            more = [each for each in self.followers.get(waiting.pop(), []) if each not in found]
            found.update(more)
            waiting += more
        return found

    def _is_end(self, position: int, *, has_terminal: bool) -> bool:
        return _OVER in self._positions.ends(position) or (not has_terminal and _OUT in self._positions.ends(position))

    @property
    def _starts(self) -> list[int]:
        return [self._positions.start, *self._positions.jumps]

    def _moves(self, position: int) -> Iterator[tuple[str, list[int]]]:
        for event_id, after in self._positions.moves(position).items():
            is_free = self._allowed is None or event_id not in self._lifecycle.after
            if is_free or (position, event_id) in (self._allowed or ()):
                yield event_id, after

    def _reached(self, starts: Iterable[int]) -> set[int]:
        seen = {*starts}
        waiting = [*seen]
        while waiting:
            for _, after in self._moves(waiting.pop()):
                waiting += [at for at in after if at not in seen]
                seen.update(after)
        return seen

    def _late(self) -> set[tuple[int, str]]:
        """Return the moves that come late enough for their `after`, each as its position and its id."""
        after = self._lifecycle.after
        everywhere = self._reached(self._starts) if after else set()
        in_order = self._reached([self._positions.start]) if after else set()
        found: set[tuple[int, str]] = set()
        for target in dict.fromkeys(after.values()):
            behind = everywhere
            if target not in self._lifecycle.anytime:
                ends = [
                    end for at in everywhere for event_id, ends in self._moves(at) if event_id == target for end in ends
                ]
                behind = self._reached(ends)
                if any(at in in_order and not self._positions.is_over(at) for at in behind):
                    behind |= self._reached(self._positions.jumps)
            found |= {
                (at, event_id)
                for at in behind
                for event_id in self._positions.moves(at)
                if after.get(event_id) == target
            }
        return found


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What a run may show directly before and after an event, ignoring `anytime` and `aborts` phases.

    Attributes:
        before: The ids that may come directly before it.
        after: The ids that may come directly after it.
        begins: Whether a run may begin with it.
        ends: Whether a complete run may end with it.
        opening: For an event of an `anytime` phase that closes something, the id that opens it.
        is_anytime: Whether it may fall between any two others.
        is_jump: Whether it may follow any event of a run that has not ended.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    begins: bool
    ends: bool
    opening: str | None
    is_anytime: bool
    is_jump: bool


def grammar(module: Module) -> dict[str, object]:
    """Return the lifecycle of a module as plain data, for tools that do not import this compiler.

    A run begins with one of `first`; after an event comes one of its `followers`; a complete run ends with one of
    `last`, or is empty where `may_be_empty`. Ids of `anytime` fall anywhere, each only after the id that it names.
    Nothing follows an id of `final`. An id of `after` comes only after the id that it names, directly or later.
    """
    lifecycle = Lifecycle.of(module)
    found = lifecycle.neighbourhood
    order = {event_id: at for at, event_id in enumerate(lifecycle.constants)}

    behind = {jump: found.behind(lifecycle.after[jump]) for jump in found.jumps if jump in lifecycle.after}

    def with_jumps(ids: list[str], event_id: str = "") -> list[str]:
        jumps = [jump for jump in found.jumps if jump not in behind or event_id in behind[jump]]
        return sorted({*ids, *jumps}, key=order.__getitem__)

    leaves = {*found.leaves} if found.jumps else set()
    return {
        "first": with_jumps(found.first),
        "followers": {
            event_id: with_jumps(followers, event_id) if event_id in leaves else followers
            for event_id, followers in found.followers.items()
        },
        "last": found.last,
        "may_be_empty": found.may_be_empty,
        "anytime": lifecycle.anytime,
        "final": found.final,
        **({"after": lifecycle.after} if lifecycle.after else {}),
    }


def unreachable(module: Module) -> list[str]:
    """Return the ids whose `after` names what cannot come before them, without those that follow from these."""
    lifecycle = Lifecycle.of(module)
    impossible = lifecycle.neighbourhood.impossible
    in_circle: set[str] = set()
    known: set[str] = set()
    for start in lifecycle.after:
        way: list[str] = []
        at = start
        while at in lifecycle.after and at not in known:
            known.add(at)
            way.append(at)
            at = lifecycle.after[at]
        if at in way:
            in_circle.add(min(way[way.index(at) :], key=[*lifecycle.constants].index))
    return [event_id for event_id in lifecycle.after if event_id in impossible | in_circle]


def neighbours(module: Module) -> dict[str, Neighbours]:
    """Return what can come directly before and after each event of a module, by id."""
    lifecycle = Lifecycle.of(module)
    found = lifecycle.neighbourhood
    before: dict[str, list[str]] = {event_id: [] for event_id in lifecycle.constants}
    for event_id, followers in found.followers.items():
        for follower in followers:
            before[follower].append(event_id)
    first, last, jumps = {*found.first}, {*found.last}, {*found.jumps}
    return {
        event_id: Neighbours(
            before=tuple(before[event_id]),
            after=tuple(found.followers.get(event_id, [])),
            begins=event_id in first,
            ends=event_id in last,
            opening=lifecycle.anytime.get(event_id),
            is_anytime=event_id in lifecycle.anytime,
            is_jump=event_id in jumps,
        )
        for event_id in lifecycle.constants
    }
