"""The automaton of a module, against a reference that tries every way to read a run as the flags are worded.

The reference knows no positions, no states and no regular expressions. It walks through a run part by part, and keeps
every place that a part may end at.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from d9d_codegen.catalogue import Module
from d9d_codegen.diagnostic import DiagnosticError, Source
from d9d_codegen.lifecycle import Lifecycle, State, grammar
from d9d_codegen.lint import lint_text

Run = tuple[str, ...]


@dataclass(frozen=True)
class Moment:
    """An event, or a bracket of two with moments in it.

    Attributes:
        id: The event that opens it.
        closing: The event that closes it; empty if it is one event.
        inner: What is between the two.
        repeats: Its flag.
        optional: Its flag.
        after: The event that must have been triggered before the last one of this moment; empty for none.
    """

    id: str
    closing: str = ""
    inner: tuple["Moment", ...] = ()
    repeats: bool = False
    optional: bool = False
    after: str = ""

    def events(self) -> Iterable["Moment"]:
        """Yield each event with its flags, in the order of the catalogue."""
        if not self.closing:
            yield self
            return
        yield Moment(self.id)
        for moment in self.inner:
            yield from moment.events()
        yield replace(self, id=self.closing, closing=self.id)


@dataclass(frozen=True)
class Part:
    """A phase with its flags; `kind` is one of "", "around", "anytime", "aborts", "terminal", "anytime terminal"."""

    name: str
    moments: tuple[Moment, ...]
    kind: str = ""
    center: str = ""
    repeats: bool = False
    optional: bool = False
    any_order: bool = False


@dataclass(frozen=True)
class Spec:
    """A module."""

    parts: tuple[Part, ...]

    def yaml(self) -> str:
        """Return the catalogue that declares it."""
        lines = ["version: 1", "package: shop.events", "modules:", "  sale:", "    doc: A sale.", "    contexts:"]
        lines += ["      EventDayContext: {doc: A day.}", "    phases:"]
        for part in self.parts:
            flags = [f"{kind}: true" for kind in part.kind.split() if kind != "around"]
            flags += [f"around: {part.center}"] if part.kind == "around" else []
            flags += [flag + ": true" for flag in ("repeats", "optional", "any_order") if getattr(part, flag)]
            lines.append(f"      {part.name}: {{{', '.join(['doc: A part.', *flags])}}}")
        lines.append("    events:")
        for part in self.parts:
            for event in (event for moment in part.moments for event in moment.events()):
                flags = [flag + ": true" for flag in ("repeats", "optional") if getattr(event, flag)]
                flags += [f"ends: EVENT_{event.closing.upper()}"] if event.closing else []
                flags += [f"after: EVENT_{event.after.upper()}"] if event.after else []
                given_ = ", ".join([f"id: sale.{event.id}", f"phase: {part.name}", "context: EventDayContext", *flags])
                lines.append(f"      EVENT_{event.id.upper()}: {{{given_}, doc: Something happens.}}")
        return "\n".join(lines) + "\n"

    @property
    def events(self) -> list[Moment]:
        """All events."""
        return [event for part in self.parts for moment in part.moments for event in moment.events()]


Match = Callable[[int], set[int]]  # from a place in a run to the places where a part that begins there may end


class Reading:
    """The ways to read one run.

    Args:
        run: The ids of the run.

    Attributes:
        is_cut: Whether a way of reading met the end of the run and wanted more: the run is the beginning of another.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.is_cut = False

    def event(self, event_id: str) -> Match:
        """Read one event."""

        def match(at: int) -> set[int]:
            if at == len(self.run):
                self.is_cut = True
                return set()
            return {at + 1} if self.run[at] == event_id else set()

        return match

    def sequence(self, parts: Iterable[Match]) -> Match:
        """Read parts one after the other."""
        kept = [*parts]

        def match(at: int) -> set[int]:
            places = {at}
            for part in kept:
                places = set().union(*map(part, places))
            return places

        return match

    def flagged(self, part: Match, *, repeats: bool, optional: bool) -> Match:
        """Read a part as often as its flags say."""

        def match(at: int) -> set[int]:
            found = part(at)
            while repeats and (more := set().union(*map(part, found)) - found):
                found |= more
            return found | {at} if optional else found

        return match

    def in_any_order(self, units: list[tuple[Match, bool, bool]]) -> Match:
        """Read units in any order; each has its runs, and whether it repeats and is optional."""

        def match(at: int) -> set[int]:
            done = {(at, frozenset[int]())}
            waiting = [*done]
            while waiting:
                place, read = waiting.pop()
                for number, (unit, repeats, _) in enumerate(units):
                    if number in read and not repeats:
                        continue
                    more = {(end, read | {number}) for end in unit(place)} - done
                    done |= more
                    waiting += more
            required = {number for number, (_, _, optional) in enumerate(units) if not optional}
            return {place for place, read in done if required <= read}

        return match

    def moment(self, moment: Moment) -> Match:
        """Read a moment without its flags."""
        if not moment.closing:
            return self.event(moment.id)
        return self.sequence([self.event(moment.id), self.moments(moment.inner), self.event(moment.closing)])

    def moments(self, moments: Iterable[Moment]) -> Match:
        """Read moments in their order."""
        return self.sequence(
            self.flagged(self.moment(each), repeats=each.repeats, optional=each.optional) for each in moments
        )

    def phase(self, part: Part) -> Match:
        """Read a phase without its flags."""
        if part.any_order:
            return self.in_any_order([(self.moment(each), each.repeats, each.optional) for each in part.moments])
        return self.moments(part.moments)


class Reference:
    """Judges the runs of a module."""

    def __init__(self, spec: Spec) -> None:
        self._parts = spec.parts
        self._ids = [event.id for event in spec.events]
        self._after = {event.id: event.after for event in spec.events if event.after}
        moments = [each for part in spec.parts if part.kind == "anytime" for each in part.moments]
        self._anytime = {event.id: event for moment in moments for event in moment.events()}
        self._has_terminal = any("terminal" in part.kind for part in spec.parts)

    def accepts(self, run: Run, *, complete: bool) -> bool:
        """Return whether a run is legal."""
        ordered = self._without_anytime(run)
        return self._is_allowed(run) and (self._ends(ordered) if complete else self._begins(ordered))

    def _without_anytime(self, run: Run) -> Run:
        return tuple(event_id for event_id in run if event_id not in self._anytime)

    def _is_allowed(self, run: Run) -> bool:
        """Return whether `after` and the events at any time are where they may be."""
        open_: set[str] = set()
        for at, event_id in enumerate(run):
            if event_id in self._after and self._after[event_id] not in run[:at]:
                return False
            if event_id not in self._anytime:
                continue
            if self._is_over(self._without_anytime(run[:at])):
                return False
            opening = self._anytime[event_id].closing  # in an event that closes, the one that it closes
            if opening and opening not in open_:
                return False
            if event_id in open_:
                return False
            open_ -= {opening}
            if any(event.closing == event_id for event in self._anytime.values()):
                open_.add(event_id)
        return True

    def _main(self, run: Run) -> tuple[bool, bool, bool]:
        """Read a run without jumps; return whether it is a beginning, is complete, and is ended by a terminal phase."""
        reading = Reading(run)
        places, ended = {0}, set[int]()
        for part in self._parts:
            if part.kind not in ("", "terminal"):
                continue
            around = [other for other in self._parts if other.kind == "around" and other.center == part.name]
            if part.kind == "terminal":
                ended |= set().union(*map(reading.phase(part), places))
                places = places if part.optional else set()
                continue
            gap = reading.in_any_order([(reading.phase(other), other.repeats, True) for other in around])
            once = reading.sequence([reading.phase(part), gap])
            whole = reading.sequence([gap, reading.flagged(once, repeats=part.repeats, optional=part.optional)])
            places = set().union(*map(whole, places))
        is_ended, is_passed = len(run) in ended, len(run) in places
        return reading.is_cut or is_ended or is_passed, is_ended if self._has_terminal else is_passed, is_ended

    def _is_over(self, run: Run) -> bool:
        """Return whether nothing can follow a run."""
        if self._jumps(run, complete=True) and not self._jumps_further(run):
            return True
        return self._main(run)[2] and not any(self._main((*run, event_id))[0] for event_id in self._ids)

    def _begins(self, run: Run) -> bool:
        return self._main(run)[0] or self._jumps(run, complete=False)

    def _ends(self, run: Run) -> bool:
        return self._main(run)[1] or self._jumps(run, complete=True)

    def _jumps_further(self, run: Run) -> bool:
        return any(self._jumps((*run, event_id), complete=False) for event_id in self._ids)

    def _jumps(self, run: Run, *, complete: bool) -> bool:
        """Return whether a run leaves the order at some event, for what may follow any event."""
        endings = [part for part in self._parts if "terminal" in part.kind]
        for at in range(len(run)):
            if not self._main(run[:at])[0] or self._is_ended(run[:at]):
                continue
            for part in self._parts:
                ways: list[list[Part]] = [[part]] if part.kind == "anytime terminal" else []
                if part.kind == "aborts":
                    ways = [[part, ending] for ending in endings] or [[part]]
                for way in ways:
                    reading = Reading(run[at:])
                    ends = reading.sequence(map(reading.phase, way))(0)
                    if len(run) - at in ends or (reading.is_cut and not complete):
                        return True
        return False

    def _is_ended(self, run: Run) -> bool:
        return self._main(run)[2] and not any(self._main((*run, event_id))[0] for event_id in self._ids)


FLAGS = st.booleans()


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Return a module of a few phases and at most seven events, with any of the flags."""
    names = iter("abcdefghijklmnopqrstuvwxyz")
    num_left = draw(st.integers(2, 7))

    def moments(most: int, depth: int = 0) -> tuple[Moment, ...]:
        nonlocal num_left
        found = []
        for _ in range(draw(st.integers(1, most))):
            if num_left <= 0:
                break
            repeats, optional = draw(FLAGS), draw(FLAGS)
            num_left -= 1
            if num_left > 0 and depth < 2 and draw(st.integers(0, 3)) == 0:
                num_left -= 1
                opening, closing = next(names), next(names)
                inner = moments(2, depth + 1) if draw(FLAGS) else ()
                found.append(Moment(opening, closing, inner, repeats=repeats, optional=optional))
            else:
                found.append(Moment(next(names), repeats=repeats, optional=optional))
        return tuple(found)

    kinds = ["", *draw(st.lists(st.sampled_from(["", "around", "around", "anytime", "aborts"]), max_size=3))]
    kinds += draw(st.sampled_from([[], ["terminal"], ["anytime terminal"], ["terminal", "terminal"]]))
    parts: list[Part] = []
    for number, kind in enumerate(kinds):
        content = moments(3)
        if not content:
            continue
        centers = [part.name for part in parts if part.kind == ""]
        parts.append(
            Part(
                f"p{number}",
                content,
                kind,
                draw(st.sampled_from(centers)) if kind == "around" else "",
                repeats=kind in ("", "around") and draw(FLAGS),
                optional=kind in ("", "terminal") and draw(FLAGS),
                any_order="anytime" not in kind and draw(st.integers(0, 2)) == 0,
            )
        )
    ids = [event.id for part in parts for moment in part.moments for event in moment.events()]
    if draw(FLAGS):
        target = draw(st.sampled_from(ids))
        parts = [
            replace(
                part,
                moments=tuple(
                    replace(each, after=target) if draw(FLAGS) and target not in (each.id, each.closing) else each
                    for each in part.moments
                ),
            )
            for part in parts
        ]
    return Spec(tuple(parts))


def module_of(spec: Spec) -> Module | None:
    """Return the module that a specification declares; None where the compiler refuses its `after` or its order."""
    source = Source(Path("catalogue.yaml"), spec.yaml())
    try:
        return lint_text(source).modules[0]
    except DiagnosticError as error:
        rules = {diagnostic.rule for diagnostic in error.diagnostics}
    if rules <= {"unreachable-event", "unreachable-phase"}:
        return None
    raise AssertionError(rules)


def words(ids: list[str], length: int) -> Iterable[Run]:
    """Yield every run of at most a length."""
    for size in range(length + 1):
        yield from itertools.product(ids, repeat=size)


@st.composite
def walks(draw: st.DrawFn, lifecycle: Lifecycle, length: int) -> Run:
    """Return a run that the automaton accepts, or such a run with one event replaced."""
    state, run = lifecycle.start, list[str]()
    for _ in range(length):
        possible = [event_id for event_id in lifecycle.constants if lifecycle.step(state, event_id)]
        if not possible:
            break
        chosen = draw(st.sampled_from(possible))
        run.append(chosen)
        state = lifecycle.step(state, chosen) or state
    is_changed = draw(FLAGS)
    if run and is_changed:
        run[draw(st.integers(0, len(run) - 1))] = draw(st.sampled_from([*lifecycle.constants]))
    return tuple(event_id.removeprefix("sale.") for event_id in run)


def judged(lifecycle: Lifecycle, run: Run, *, complete: bool) -> bool:
    """Return whether the automaton accepts a run, whose ids lack their first segment."""
    return lifecycle.first_violation([f"sale.{event_id}" for event_id in run], complete=complete) is None


@settings(max_examples=150, deadline=None)
@given(specs())
def test_the_automaton_accepts_the_same_short_runs_as_the_reference(spec: Spec) -> None:
    """Every run of up to three events, complete or cut off, is judged alike."""
    module = module_of(spec)
    if module is None:
        return
    lifecycle, reference = Lifecycle.of(module), Reference(spec)
    for run in words([event.id for event in spec.events], 3):
        for complete in (False, True):
            assert judged(lifecycle, run, complete=complete) == reference.accepts(run, complete=complete), (
                run,
                complete,
            )


@settings(max_examples=200, deadline=None)
@given(specs(), st.data())
def test_the_automaton_accepts_the_same_long_runs_as_the_reference(spec: Spec, data: st.DataObject) -> None:
    """Runs of up to twelve events that the automaton walks, one of them changed or not, are judged alike."""
    module = module_of(spec)
    if module is None:
        return
    lifecycle, reference = Lifecycle.of(module), Reference(spec)
    run = data.draw(walks(lifecycle, 12))
    for size, complete in itertools.product(range(len(run) + 1), (False, True)):
        is_legal = judged(lifecycle, run[:size], complete=complete)
        note(f"legal: {is_legal}")
        assert is_legal == reference.accepts(run[:size], complete=complete), (run[:size], complete)


@settings(max_examples=200, deadline=None)
@given(specs(), st.data())
def test_the_neighbours_of_an_event_are_those_that_runs_show(spec: Spec, data: st.DataObject) -> None:
    """In every run each event is among the declared followers of the one before."""
    module = module_of(spec)
    if module is None:
        return
    lifecycle, found = Lifecycle.of(module), grammar(module)
    followers, first = found["followers"], found["first"]
    assert isinstance(followers, dict)
    assert isinstance(first, list)
    run = [f"sale.{event_id}" for event_id in data.draw(walks(lifecycle, 12))]
    if lifecycle.first_violation(run):
        return
    ordered = [event_id for event_id in run if event_id not in lifecycle.anytime]
    assert ordered[:1] == [event_id for event_id in ordered[:1] if event_id in first]
    for event_id, follower in itertools.pairwise(ordered):
        assert follower in followers[event_id]
    if lifecycle.first_violation(run, complete=True) is None and ordered:
        last = found["last"]
        assert isinstance(last, list)
        assert ordered[-1] in last


@settings(max_examples=100, deadline=None)
@given(specs())
def test_each_follower_comes_in_some_run(spec: Spec) -> None:
    """A follower that the index and the pages name is not only one as far as flags go: some run shows the two.

    Where events in any order also say `after`, there may be more followers than runs show.
    """
    module = module_of(spec)
    is_loose = any(part.any_order for part in spec.parts) and any(event.after for event in spec.events)
    if module is None or is_loose:
        return
    lifecycle, found = Lifecycle.of(module), grammar(module)
    followers = found["followers"]
    assert isinstance(followers, dict)
    shown: set[tuple[str, str]] = set()
    waiting: list[tuple[State, str]] = [(lifecycle.start, "")]
    seen = {*waiting}
    while waiting:
        state, last = waiting.pop()
        for event_id in lifecycle.constants:
            following = lifecycle.step(state, event_id)
            if following is None:
                continue
            after = (following, last if event_id in lifecycle.anytime else event_id)
            shown.add((last, after[1]))
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    assert {(event_id, each) for event_id, ids in followers.items() for each in ids} <= shown
