"""API pages: the content of the page of one module, and its state diagram.

Mermaid draws no edge between inner states of two composite states. So each phase is a diagram of its own events, and
the edges between phases connect the phases themselves.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Module, Phase, Scope, with_status
from d9d_codegen.expression import parse_type
from d9d_codegen.lifecycle import Lifecycle, closings, neighbours
from d9d_codegen.render.markdown import code


def anchor(heading: str) -> str:
    """Return the anchor of a heading that is a name."""
    return "#" + heading.lower()


_EDGE: Final = "[*]"  # the start of a diagram to the left of an arrow, its end to the right


def state_diagram(module: Module) -> str:
    """Return the Mermaid diagram of a module's runs, without the fence around it."""
    lines = ["stateDiagram-v2", *_indented(_whole(module))]
    return "\n".join(lines)


def _whole(module: Module) -> Iterator[str]:
    names = {str(phase.name): f"phase{number}" for number, phase in enumerate(module.phases, start=1)}
    phase_of = {str(event.id): str(event.phase) for event in module.own_events}
    for phase in module.phases:
        yield f'state "{_label(phase)}" as {names[phase.name]}'
        yield f"state {names[phase.name]} {{"
        yield from _indented(_inner(module, phase))
        yield "}"
    # The labels of the other phases say where they may stand: all their edges would hide the way of a run.
    on_the_way = tuple(phase for phase in module.phases if not (phase.anytime or phase.around or phase.aborts))
    found = Lifecycle.of(replace(module, phases=on_the_way)).neighbourhood
    yield from _unique(f"{_EDGE} --> {names[phase_of[first]]}" for first in found.first)
    yield from _unique(
        f"{names[phase_of[event_id]]} --> {names[phase_of[follower]]}"
        for event_id, followers in found.followers.items()
        for follower in followers
        if phase_of[event_id] != phase_of[follower]
    )
    for phase in on_the_way:
        if phase.repeats:
            yield f"{names[phase.name]} --> {names[phase.name]}"
    for phase in module.phases:
        if phase.around:
            yield f"{names[phase.around]} --> {names[phase.name]}"
            yield f"{names[phase.name]} --> {names[phase.around]}"
    aborting = [phase for phase in module.phases if phase.aborts and not phase.terminal]
    ending = [phase for phase in module.phases if phase.terminal]
    yield from (f"{names[phase.name]} --> {names[end.name]}" for phase in aborting for end in ending)
    last = {*Lifecycle.of(module).neighbourhood.last}
    yield from _unique(f"{names[phase_of[event_id]]} --> {_EDGE}" for event_id in phase_of if event_id in last)


def _inner(module: Module, phase: Phase) -> Iterator[str]:
    """Yield the states and edges within one phase, as if it were a whole run; without order, each moment is a run."""
    events = tuple(event for event in module.own_events if event.phase == phase.name)
    for event in events:
        yield f'state "{_label(event)}" as {event.name}'
    alone = replace(
        phase, repeats=False, optional=False, anytime=False, terminal=False, around=None, any_order=False, aborts=False
    )
    runs = [events] if not phase.any_order else _moments(module, events)
    parts = [Lifecycle.of(replace(module, phases=(alone,), events=run)).neighbourhood for run in runs]
    names = {str(event.id): str(event.name) for event in events}
    yield from (f"{_EDGE} --> {names[first]}" for part in parts for first in part.first)
    for part in parts:
        for event_id, followers in part.followers.items():
            yield from (f"{names[event_id]} --> {names[after]}" for after in followers)
    yield from (f"{names[event_id]} --> {_EDGE}" for part in parts for event_id in part.last)


def _moments(module: Module, events: tuple[EventSpec, ...]) -> list[tuple[EventSpec, ...]]:
    """Return the events of a phase in groups: each pair and bracket with all that is in it, and each other event."""
    closing_of = closings(module)
    found: list[list[EventSpec]] = []
    waiting: list[str] = []
    for event in events:
        if waiting:
            found[-1].append(event)
        else:
            found.append([event])
        if event.id in closing_of:
            waiting.append(str(closing_of[event.id].id))
        elif waiting and event.id == waiting[-1]:
            waiting.pop()
    return [tuple(group) for group in found]


def _label(entry: Phase | EventSpec) -> str:
    """Return the label of a state: the name of a phase or the id of an event; neither can contain a quote."""
    if isinstance(entry, EventSpec):
        return str(entry.id)
    marks = [
        f"around {entry.around}" if entry.around else "",
        "in any order" if entry.any_order else "",
        "at any time" if entry.anytime else "",
        "after any event" if entry.aborts else "",
    ]
    return ", ".join([str(entry.name), *(mark for mark in marks if mark)])


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


def _unique(items: "Iterator[str] | list[str]") -> list[str]:
    return list(dict.fromkeys(items))


Uses = dict[str, list[tuple[Module, EventSpec]]]


def uses(catalogue: Catalogue) -> Uses:
    """Return the events of each context, with their modules, by the context's full dotted path."""
    found: Uses = {}
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for event in module.own_events:
            found.setdefault(scope.resolve(event.context) or event.context, []).append((module, event))
    return found


class Page:
    """The API page of one module.

    Args:
        catalogue: A valid catalogue.
        module: The module.
        used: The result of `uses` for the catalogue.
    """

    def __init__(self, catalogue: Catalogue, module: Module, used: Uses) -> None:
        self.module = module
        self.path = f"{catalogue.package}.{module.name}"
        self._catalogue = catalogue
        self._scope = Scope(catalogue, module)
        self._used = used
        self._neighbours = neighbours(module)
        self._constants = {str(event.id): str(event.name) for event in module.own_events}
        self._phases = {str(phase.name): phase for phase in module.phases}
        self._phase_of = {str(event.id): str(event.phase) for event in module.own_events}
        self._closing_of = closings(module)
        self._opening_of = {str(closing.id): opening for opening, closing in self._closing_of.items()}
        self._closing_around = dict(_enclosing(module, self._closing_of))

    def phases(self) -> Iterator[tuple[Phase, list[EventSpec]]]:
        """Yield each phase with its events."""
        for phase in self.module.phases:
            yield phase, [event for event in self.module.own_events if event.phase == phase.name]

    def context_link(self, name: str) -> str:
        """Return a link to a context; only its path where it belongs to another catalogue."""
        path = self._scope.resolve(name) or name
        if path not in self._catalogue.contexts:
            return code(path)
        *_, module, last = path.split(".")
        return self._link(module, last)

    def diagram(self) -> str:
        """Return the Mermaid diagram of the module's runs."""
        return state_diagram(self.module)

    def before(self, event: EventSpec) -> str:
        """Return what can come directly before an event, with links."""
        around = self._neighbours[event.id]
        if around.is_anytime:
            return f"any event, after {self._event_link(around.opening)}" if around.opening else "any event"
        if around.is_jump and not around.before:
            return "any event, or the beginning of the run"
        return self._either(event, around.before, "the beginning of the run" if around.begins else None)

    def after(self, event: EventSpec) -> str:
        """Return what can come directly after an event, with links."""
        around = self._neighbours[event.id]
        if around.is_anytime:
            return "the end of the run" if around.ends else "any event"
        return self._either(event, around.after, "the end of the run" if around.ends else None)

    def occurs(self, event: EventSpec) -> str:
        """Return how often an event occurs, with links: in its phase, and within what is around it."""
        phase = self._phases[event.phase]
        if phase.anytime and not phase.terminal:
            return "any number of times"
        closing = self._closing_around.get(str(event.id))
        flags = self._closing_of.get(str(event.id), event)
        often = occurrence(flags)
        if closing:
            opening = self._opening_of[str(closing.id)]
            return f"{often} between {self._event_link(opening)} and {self._event_link(closing.id)}"
        if phase.around or phase.repeats or phase.optional or phase.aborts:
            return f"{often} in each run of the phase {_phase_link(phase.name)}"
        return often

    def _either(self, event: EventSpec, ids: tuple[str, ...], edge: str | None) -> str:
        """Return links to neighbours, in which the events of a phase without a fixed place or order are summed up."""
        in_phase = [event_id for event_id in ids if self._phase_of[event_id] == event.phase]
        links: dict[str, None] = {}
        for event_id in ids:
            phase = self._phases[self._phase_of[event_id]]
            is_own = phase.name == event.phase
            is_summed_up = phase.any_order and len(in_phase) > 1 if is_own else phase.around
            links[f"the phase {_phase_link(phase.name)}" if is_summed_up else self._event_link(event_id)] = None
        *others, last = [*links, *([edge] if edge else [])] or ["nothing"]
        return f"{', '.join(others)} or {last}" if others else last

    def event_link(self, name: str) -> str:
        """Return a link to an event of the module."""
        return self._link(self.module.name, name)

    def _event_link(self, event_id: str) -> str:
        return self._link(self.module.name, self._constants[event_id])

    def events_with(self, context: Context) -> str:
        """Return links to the events that carry a context."""
        used = self._used.get(f"{self.path}.{context.name}", [])
        return ", ".join(self._link(module.name, event.name) for module, event in used)

    def deprecated_names(self) -> list[tuple[str, str, str]]:
        """Return the aliases among constants and contexts: names, links to their targets, and docs."""
        events = {str(event.name): event for event in self.module.events}
        found = []
        for entry in self.module.entries:
            replacement = entry.status.replaced_by
            if not replacement:
                continue
            text = with_status(entry.doc, entry.status)
            if isinstance(entry, EventSpec) and entry.id != events[replacement].id:
                text += f" Nothing triggers the id {entry.id} any more."
            found.append((str(entry.name), self._link(self.module.name, replacement), text))
        return found

    def type(self, expression: str) -> str:
        """Return a type as inline code."""
        return code(parse_type(expression).write(str))

    def _link(self, module: str, name: str) -> str:
        page = "" if module == self.module.name else f"{module}.md"
        return f"[{code(name)}]({page}{anchor(name)})"


def _phase_link(name: str) -> str:
    return f"[{code(name)}](#phase-{name.lower()})"


def _enclosing(module: Module, closing_of: dict[str, EventSpec]) -> Iterator[tuple[str, EventSpec]]:
    """Yield the events between the two events of a pair or a bracket, with the closing one of the innermost."""
    begun: list[EventSpec] = []
    for event in module.own_events:
        if begun and event.id == begun[-1].id:
            begun.pop()
        if begun:
            yield str(event.id), begun[-1]
        if event.id in closing_of:
            begun.append(closing_of[event.id])


def occurrence(entry: Phase | EventSpec) -> str:
    """Return how often a phase or an event occurs in a run, in words."""
    if isinstance(entry, Phase) and entry.around:
        often = "any number of times" if entry.repeats else "at most once"
        return f"{often} before, between and after runs of {entry.around}"
    if isinstance(entry, Phase) and entry.aborts:
        return "at most once, after any event, " + ("then nothing" if entry.terminal else "then only a terminal phase")
    if isinstance(entry, Phase) and entry.anytime:
        often = "at any time"
    elif entry.repeats:
        often = "any number of times" if entry.optional else "once or more"
    else:
        often = "at most once" if entry.optional else "once"
    return f"{often}, then nothing follows" if isinstance(entry, Phase) and entry.terminal else often
