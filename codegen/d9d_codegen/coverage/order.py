"""The declared order of events, as the flow of source code is held against it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from d9d_codegen.catalogue import Catalogue, EventSpec, Module
from d9d_codegen.diagnostic import Source, Span
from d9d_codegen.lifecycle import Lifecycle, State, other_sides


@dataclass(frozen=True, slots=True)
class Site:
    """A place where an event is triggered or subscribed to.

    Attributes:
        event: The full path of the event's constant.
        source: The text of the file.
        span: The position of the event's name.
        function: The function that contains it.
    """

    event: str
    source: Source = field(compare=False, repr=False)
    span: Span
    function: str

    @property
    def name(self) -> str:
        """The event's constant."""
        return self.event.rpartition(".")[2]

    def __str__(self) -> str:
        """Return the position as editors read it."""
        return f"{self.source.path}:{self.span.line}:{self.span.column}"


class Disorder(NamedTuple):
    """Why a trigger is not where the catalogue declares it.

    Attributes:
        rule: The name of the diagnostic.
        site: The trigger.
        before: The trigger that came last before it on this path; None if none is known.
        message: What is wrong.
        remedy: What to do.
    """

    rule: str
    site: Site
    before: Site | None
    message: str
    remedy: str


class Path(NamedTuple):
    """What is known of a run on one path through the source.

    Attributes:
        state: Where in its lifecycle the run may be.
        is_loose: Whether something may have been left out on this path, as in the handler of an exception.
    """

    state: State
    is_loose: bool = False


Value = Mapping[Path, Site | None]
"""The paths that may lead to a point of the source, each with the trigger that came last on it."""
_MAX_PATHS: Final = 64
_ONCE: Final = "trigger it once, or declare it with `repeats: true`"


def merged(values: Iterable[Value]) -> Value:
    """Return all paths where several branches meet."""
    found: dict[Path, Site | None] = {}
    for value in values:
        for path, site in value.items():
            found.setdefault(path, site)
    return found if len(found) <= _MAX_PATHS else _in_one([found])


def loosened(*values: Value) -> Value:
    """Return paths on which something may have been left out."""
    return merged({path._replace(is_loose=True): site for path, site in value.items()} for value in values)


def chosen(value: Value, *others: Value) -> Value:
    """Return the paths of a value, on each of which the run may as well be where the others are.

    That is meant for branches that a program chooses rightly, such as the number of passes of a loop.
    """
    instead = _in_one(others)
    if not value or not instead:
        return value or instead
    [(joined, _)] = instead.items()
    return merged(
        {Path(_joined(path.state, joined.state), path.is_loose or joined.is_loose): site}
        for path, site in value.items()
    )


def _in_one(values: Iterable[Value]) -> Value:
    """Return one path that may be anywhere where the paths of some values are."""
    result: Path | None = None
    last: Site | None = None
    for value in values:
        for path, site in value.items():
            last = last or site
            result = (
                path if result is None else Path(_joined(result.state, path.state), result.is_loose or path.is_loose)
            )
    return {} if result is None else {result: last}


def _joined(one: State, other: State) -> State:
    return State(
        one.positions | other.positions,
        one.triggered | other.triggered,
        one.opened | other.opened,
        one.is_aborted and other.is_aborted,
    )


class ModuleOrder:
    """The lifecycle of one module, by the full paths of its constants.

    Args:
        module: The module.
        prefix: The full path of the module.

    Attributes:
        ids: The id of each event.
        start: The state before the first event.
    """

    def __init__(self, module: Module, prefix: str) -> None:
        self._lifecycle = Lifecycle(module, forgets=True)
        self.ids = {f"{prefix}.{event.name}": str(event.id) for event in module.own_events}
        self._all = frozenset(self.ids)
        self.start = self._lifecycle.start
        self._closures: dict[tuple[State, frozenset[str]], State] = {}

    def after_any(self, state: State, events: frozenset[str]) -> State:
        """Return the state after any number of some events, in any order, as far as the lifecycle allows them."""
        key = (state, events)
        if key not in self._closures:
            ids = [self.ids[event] for event in events]
            found, before = state, None
            while found != before:
                before = found
                for event_id in ids:
                    following = self._lifecycle.step(found, event_id)
                    found = found if following is None else _joined(found, following)
            self._closures[key] = found
        return self._closures[key]

    def step(self, state: State, event: str) -> State | None:
        """Return the state after an event; None where it cannot come."""
        return self._lifecycle.step(state, self.ids[event])

    def later(self, state: State, event: str) -> State | None:
        """Return the state after an event that comes later, after others; None where it cannot."""
        return self.step(self.after_any(state, self._all), event)

    def anywhere(self, event: str) -> State:
        """Return the state after an event of which nothing else is known."""
        return self.later(self.start, event) or self.start

    def disorder(self, state: State, site: Site, before: Site | None) -> Disorder:
        """Return why an event cannot come."""
        in_order = "trigger them in the order of the catalogue, or change the order there"
        expected = [self._lifecycle.constants[event_id] for event_id in self._lifecycle.expected(state)]
        pending = [event_id for event_id in self._lifecycle.expected(state) if event_id in self._lifecycle.openings]
        event_id = self.ids[site.event]
        opening = self._lifecycle.openings.get(event_id)
        where = f"right after {before.name}" if before else "first"
        if before and before.event == site.event:
            message = f"{site.name} is triggered again, but does not repeat"
            closing = self._lifecycle.constants[pending[0]] if pending else ""
            remedy = f"trigger {closing} on each path between the two" if closing else _ONCE
            return Disorder("out-of-order", site, before, message, remedy)
        if before and self.later(state, site.event) is None:
            message = f"{site.name} is triggered after {before.name}, but declared before it"
            return Disorder("out-of-order", site, before, message, in_order)
        if opening and event_id not in pending:
            message = f"{site.name} is triggered {where}, without {self._lifecycle.constants[opening]} before it"
            return Disorder("out-of-order" if before else "missing-event", site, before, message, in_order)
        if pending:
            closing = self._lifecycle.constants[pending[0]]
            message = f"{site.name} is triggered {where}, before {closing}"
            return Disorder("out-of-order", site, before, message, f"trigger {closing} on each path that leads here")
        message = f"{site.name} is triggered {where}; the catalogue expects {' or '.join(expected) or 'nothing more'}"
        remedy = "trigger what is missing on each path that leads here, or declare it with `optional: true`"
        return Disorder("missing-event", site, before, message, remedy)


class Order:
    """The declared order of events, by the full paths of their constants.

    Args:
        catalogue: A valid catalogue.

    Attributes:
        events: Every event by its full path, aliases included, in the order of the catalogue.
        modules: The lifecycles of the modules with events.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.events: dict[str, EventSpec] = {}
        self.modules: list[ModuleOrder] = []
        self._other_side: dict[str, str] = {}
        self._stands_for: dict[str, str] = {}
        for module in catalogue.modules:
            self._enter(module, f"{catalogue.package}.{module.name}")

    def _enter(self, module: Module, prefix: str) -> None:
        paths = {str(event.id): f"{prefix}.{event.name}" for event in module.own_events}
        for event in module.events:
            self.events[f"{prefix}.{event.name}"] = event
            if event.status.replaced_by:
                self._stands_for[f"{prefix}.{event.name}"] = f"{prefix}.{event.status.replaced_by}"
        for event_id, other in other_sides(module).items():
            self._other_side[paths[event_id]] = f"{prefix}.{other.name}"
        if module.own_events:
            self.modules.append(ModuleOrder(module, prefix))

    def canonical(self, path: str) -> str:
        """Return the event that a deprecated one is an alias of; any other event unchanged."""
        return self._stands_for.get(path, path)

    def is_alias(self, path: str) -> bool:
        """Return whether an event is only an old name of another."""
        return path in self._stands_for

    def other_side(self, path: str) -> str | None:
        """Return the other side of a pair, or None for an event that is not a side of one."""
        return self._other_side.get(path)
