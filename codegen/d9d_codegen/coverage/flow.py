"""The order of triggers: what each function does, followed on every path through the automaton of the lifecycle.

Before a function that no given code calls, and during a call of something else, other given code may have run: whatever
that triggers may have happened then.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from d9d_check.shape import (
    Attempt,
    Choice,
    Handed,
    Invocation,
    Jump,
    Loop,
    Made,
    Opaque,
    Root,
    Step,
    Steps,
    Within,
    Yield,
    atoms_in,
    functions_in,
    handed_in,
)
from d9d_check.values import Definition
from d9d_codegen.coverage.order import Disorder, ModuleOrder, Order, Path, Site, Value, chosen, loosened, merged
from d9d_codegen.coverage.trace import Sites, Trigger

_MAX_PASSES: Final = 20  # of a loop


class Result(NamedTuple):
    """What a call of a function does to one path, and what is wrong with it."""

    exits: Value
    found: tuple[Disorder, ...]


def disorders(order: Order, sites: Sites) -> dict[Site, Disorder]:
    """Return the triggers that come where they must not."""
    starts = [
        (root, {each.event for atom in atoms_in(root.steps) for each in _sites_of(atom)}, _sure(root.steps))
        for root in _starts(sites)
    ]
    triggered = {site.event for site in sites.triggers}
    found: dict[Site, Disorder] = {}
    for module in order.modules:
        own = frozenset(module.ids)
        unplaced = (own - triggered) | (own & sites.unplaced)
        for root, _, sure in starts:
            if not sure & own:  # events of another loop, by attributes of the same names
                continue
            handed = sites.closures.intersection(handed_in(root.steps))
            later: dict[Definition, frozenset[str]] = {}
            elsewhere = set[str]()
            for other, events, _ in starts:
                if other.definition in handed:
                    later[other.definition] = later.get(other.definition, frozenset()) | (own & events)
                elif other is not root:
                    elsewhere |= own & events
            judge = _Judge(module, unplaced, frozenset(elsewhere), later)
            _Flow(judge, judge.start()).run(root.steps)
            for disorder in judge.found:
                found.setdefault(disorder.site, disorder)
    return found


def _starts(sites: Sites) -> list[Root]:
    """Return the code that begins at any time: no given code calls it, or it is handed on."""
    calls: dict[Definition | None, set[Definition]] = {}
    for root in sites.roots:
        calls.setdefault(root.definition, set()).update(functions_in(root.steps))
    called = set[Definition]().union(*calls.values())
    whole = [root for root in sites.roots if root.owner not in sites.inherited]
    starts = [each for each in whole if each.definition not in called or each.definition in sites.escaped]
    seen: set[Definition | None] = set()
    for each in [*starts, *whole]:  # functions that call each other, and that nothing else calls
        if each.definition not in seen and each not in starts:
            starts.append(each)
        waiting: list[Definition | None] = [each.definition]
        while waiting:
            definition = waiting.pop()
            if definition not in seen or definition is each.definition:
                waiting += calls.get(definition, set()) - seen - {each.definition}
            seen.add(definition)
    return starts


def _sites_of(step: Step) -> list[Site]:
    return step.sites if isinstance(step, Trigger) else []


def _sure(steps: Steps) -> set[str]:
    """Return the events that code triggers, if it gets there, without doubt."""
    found: set[str] = set()
    for step in steps:
        sites = _sites_of(step)
        found.update(site.event for site in sites if len(sites) == 1)
        if not isinstance(step, Invocation) or step.is_sure:
            found |= set[str]().union(*map(_sure, step.parts))
    return found


class _Judge:
    """Follows the lifecycle of one module.

    Args:
        order: The lifecycle.
        unplaced: Events that may be triggered anywhere: no place in the given source says when.
        elsewhere: Events that other given code triggers.
        later: The same for functions that are made, and handed on, while this code runs.

    Attributes:
        found: The disorders so far.
        num_passes: How many passes of loops, and calls of functions, are being followed that are not the first ones.
    """

    def __init__(
        self,
        order: ModuleOrder,
        unplaced: frozenset[str],
        elsewhere: frozenset[str],
        later: Mapping[Definition, frozenset[str]],
    ) -> None:
        self.found: list[Disorder] = []
        self.num_passes = 0
        self._order = order
        self._unplaced = unplaced
        self._elsewhere = elsewhere | unplaced
        self._later = later
        self._seen: set[Definition] = set()
        self._results: dict[tuple[int, Path, bool, frozenset[str]], Result] = {}

    def start(self) -> Value:
        """Return the paths at the beginning of a function that no given code calls."""
        return {Path(self._order.after_any(self._order.start, self._elsewhere)): None}

    def is_once(self, value: Value) -> bool:
        """Return whether the last trigger of some path cannot come again."""
        return any(last and self._order.later(path.state, last.event) is None for path, last in value.items())

    def opaque(self, value: Value) -> Value:
        """Return the paths after anything that the rest of the given code may trigger."""
        return merged(
            {path._replace(state=self._order.after_any(path.state, self._elsewhere)): site}
            for path, site in value.items()
        )

    def hand_on(self, definition: Definition) -> None:
        """Note that a function may be called from here on."""
        self._elsewhere |= self._later.get(definition, frozenset())

    def trigger(self, value: Value, sites: Iterable[Site]) -> Value:
        """Return the paths after a trigger of one of some events; one that cannot come is a disorder."""
        ends = [
            merged({self._after(path, site, last): site} for path, last in value.items())
            for site in sites
            if site.event in self._order.ids
        ]
        return (ends[0] if len(ends) == 1 else chosen(*ends)) if ends and value else value

    def _after(self, path: Path, site: Site, last: Site | None) -> Path:
        state = self._order.step(path.state, site.event)
        if state is not None:
            return path._replace(state=state)
        order = self._order
        is_twice = last is not None and last.event == site.event and last != site
        state = order.step(order.after_any(path.state, self._unplaced), site.event)
        if state is None and path.is_loose:
            state = order.later(path.state, site.event)
        if state is None or (is_twice and not path.is_loose):
            self.found.append(order.disorder(path.state, site, last))
            state = state or order.later(path.state, site.event) or order.anywhere(site.event)
        return path._replace(state=state)

    def inlined(self, made: Made, before: Value) -> tuple[Value, list[Disorder]]:
        """Return the paths after a call of a function, and what is wrong in it."""
        is_again = made.definition in self._seen
        self.num_passes += is_again
        results = [self._result(made, path, last) for path, last in before.items()]
        self.num_passes -= is_again
        self._seen.add(made.definition)
        return merged(each.exits for each in results), [one for each in results for one in each.found]

    def _result(self, made: Made, path: Path, last: Site | None) -> Result:
        key = (id(made), path, self.num_passes > 0, self._elsewhere)
        if key not in self._results:
            outer, self.found = self.found, []
            flow = _Flow(self, {path: last})
            flow.run(made.steps)
            self._results[key] = Result(flow.exits, tuple(self.found))
            self.found = outer
        return self._results[key]


class _Flow:
    """Follows what one function does, step by step.

    Each branch is followed on its own. A loop may run any number of times; if it does not run at all, nothing is missed
    that it would have triggered. What comes after a jump is not reached. A generator, and a coroutine that is not
    awaited, run at another time, but for one that a loop or a `with` statement runs.

    Args:
        judge: What happens to the run.
        value: The paths that lead to the function.
        at_yield: What happens where the function yields.
    """

    def __init__(self, judge: _Judge, value: Value, at_yield: Callable[[Value], Value] | None = None) -> None:
        self._judge = judge
        self._at_yield = at_yield or judge.opaque
        self._returns: list[Value] = []
        self._jumps: list[tuple[list[Value], list[Value]]] = []  # of each loop, the paths at its break and continue
        self.value = value
        self.exits: Value = {}

    def run(self, steps: Steps) -> None:
        """Follow the body of the function."""
        self._steps(steps)
        self.exits = merged([*self._returns, self.value])

    def _steps(self, steps: Steps) -> None:
        for step in steps:
            self._step(step)

    def _step(self, step: Step) -> None:  # noqa: C901 -- one case for each kind of step
        match step:
            case Trigger(sites=sites):
                self.value = self._judge.trigger(self.value, sites)
            case Choice(ways=ways):
                self._choice(ways)
            case Loop():
                self._loop(step)
            case Within(generator=Made() as generator, body=body):
                self._interleave(generator, lambda value: self._block(value, body))
            case Attempt():
                self._attempt(step)
            case Jump(kind=kind):
                self._leave(kind)
            case Invocation():
                self._call(step)
            case Yield(generator=Made() as generator):
                self._interleave(generator, self._at_yield)
            case Yield():
                self.value = self._at_yield(self.value)
            case Handed(definition=definition):
                self._judge.hand_on(definition)
                self.value = self._judge.opaque(self.value)
            case Opaque() | Made():
                self.value = self._judge.opaque(self.value)

    def _block(self, value: Value, steps: Steps) -> Value:
        self.value = value
        self._steps(steps)
        return self.value

    def _leave(self, kind: str) -> None:
        if kind == "return":
            self._returns.append(self.value)
        elif self._jumps and kind != "raise":
            self._jumps[-1][kind == "continue"].append(self.value)
        self.value = {}

    def _choice(self, ways: list[Steps]) -> None:
        """Follow several ways.

        What a condition such as `step == 0` means is not known here. So from the second pass of a loop on, and from the
        second call of a function on, if one way is in order, the program does not choose one that is not. A way around
        what cannot come again misses nothing.
        """
        judge, before = self._judge, self.value
        ends: list[tuple[Value, list[Disorder]]] = []
        for way in ways:
            outer, judge.found = judge.found, []
            ends.append((self._block(before, way), judge.found))
            judge.found = outer
        is_choice = judge.num_passes > 0 and any(not found for _, found in ends)
        kept = [(value, found) for value, found in ends if not (is_choice and found)]
        for _, found in kept:
            judge.found += found
        is_once = bool(self._jumps) and any(judge.is_once(value) for value, _ in kept if value != before)
        self.value = merged(loosened(value) if is_once and value == before else value for value, _ in kept)

    def _loop(self, loop: Loop) -> None:
        breaks: list[Value] = []
        if loop.generator is not None:
            self._interleave(loop.generator, lambda value: self._pass(value, loop, breaks))
            self.value = merged([self.value, *breaks])
            return
        before = self.value
        ends: list[Value] = []
        seen: set[Path] = set()
        for number in range(_MAX_PASSES):
            entry = {path: site for path, site in self.value.items() if path not in seen}
            if not entry:
                break
            seen |= entry.keys()
            self._judge.num_passes += number > 0
            ends.append(self._pass(entry, loop, breaks))
            self._judge.num_passes -= number > 0
        self.value = merged([*breaks, *(() if loop.is_endless else (*ends, loosened(before)))])

    def _pass(self, value: Value, loop: Loop, breaks: list[Value]) -> Value:
        """Follow one pass of a loop; return the paths at its end."""
        continues: list[Value] = []
        self._jumps.append((breaks, continues))
        if len(loop.passes) == 1:
            self._block(value, loop.passes[0])
        else:
            self.value = value
            self._choice(loop.passes)
        self._jumps.pop()
        self.value = merged([self.value, *continues])
        return self.value

    def _interleave(self, generator: Made, at_yield: Callable[[Value], Value]) -> None:
        """Follow a generator, and something else wherever it yields."""
        flow = _Flow(self._judge, self.value, at_yield)
        flow.run(generator.steps)
        self.value = flow.exits

    def _attempt(self, attempt: Attempt) -> None:
        before = self.value
        body, *orelse = attempt.tried
        self._steps(body)
        thrown = loosened(before, self.value)
        for steps in orelse:
            self._steps(steps)
        ends = [self.value, *(self._block(thrown, steps) for steps in attempt.handlers)]
        is_left = not any(ends)
        self.value = (thrown if attempt.final else {}) if is_left else merged(ends)
        self._steps(attempt.final)
        if is_left:
            self.value = {}

    def _call(self, call: Invocation) -> None:
        if not call.ways:
            if not call.is_plain:
                self.value = self._judge.opaque(self.value)
            return
        ends = [self._judge.inlined(way, self.value) for way in call.ways]
        if call.is_sure:
            [(self.value, found)] = ends
            self._judge.found += found
            return
        # Only the program knows which of them it is, or whether it is any: one that is in order.
        in_order = [value for value, found in ends if value and not found]
        if len(call.ways) < call.num_callees:
            in_order.insert(0, self._judge.opaque(self.value))
        elif not in_order:
            self._judge.found += next((found for _, found in ends if found), [])
        values = in_order or [value for value, _ in ends]
        self.value = chosen(values[0], *values[1:])
