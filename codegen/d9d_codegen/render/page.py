"""API pages: the content of the page of one module, its state diagram, and text as Markdown.

Mermaid draws no edge between inner states of two composite states. So each phase is a diagram of its own events, and
the edges between phases connect the phases themselves.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Module, Phase, Scope, with_status
from d9d_codegen.diagnostic import is_invisible
from d9d_codegen.expression import parse_type
from d9d_codegen.lifecycle import Lifecycle, neighbours

_SPECIAL: Final = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # within a word an underscore is literal
_BLOCK: Final = re.compile(r"^(?:([#+=:-])|(\d{1,9})([.)]))")  # the start of a heading, a list or a rule
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BACKTICKS: Final = re.compile("`+")


def prose(text: str) -> str:
    """Return a text as Markdown paragraphs that keep its line breaks."""
    lines = [_line(line) for line in text.strip().expandtabs(4).split("\n")]
    ends = ["\\" if line and following else "" for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    return "\n".join(line + end for line, end in zip(lines, ends, strict=True))


def cell(text: str) -> str:
    """Return a text as one line of Markdown, for a table."""
    return "<br>".join(_line(line) for line in text.strip().expandtabs(4).split("\n"))


def code(text: str) -> str:
    """Return a text as inline code, for tables too."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * (longest + 1)
    inner = " ".join(text.split()).replace("|", "\\|")
    return f"{fence} {inner} {fence}" if longest else f"{fence}{inner}{fence}"


def anchor(heading: str) -> str:
    """Return the anchor of a heading that is a name."""
    return "#" + heading.lower()


def _line(line: str) -> str:
    stripped = line.lstrip(" ")
    indentation = "&nbsp;" * (len(line) - len(stripped))
    escaped = _SPECIAL.sub(r"\\\g<0>", stripped.rstrip(" "))
    escaped = _BLOCK.sub(lambda match: f"\\{match[1]}" if match[1] else f"{match[2]}\\{match[3]}", escaped)
    return indentation + "".join(_ENTITIES.get(char) or _visible(char) for char in escaped)


def _visible(char: str) -> str:
    return f"&#x{ord(char):x};" if is_invisible(char) else char


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
    lifecycle = Lifecycle.of(module)
    yield from _unique(f"{_EDGE} --> {names[phase_of[first]]}" for first in lifecycle.followers[""])
    yield from _unique(
        f"{names[phase_of[event_id]]} --> {names[phase_of[follower]]}"
        for event_id, followers in lifecycle.followers.items()
        for follower in (followers if event_id else [])
        if phase_of[event_id] != phase_of[follower]
    )
    for phase in module.phases:
        if phase.repeats and not phase.anytime:
            yield f"{names[phase.name]} --> {names[phase.name]}"
    ends = lifecycle.ends | lifecycle.final
    yield from _unique(f"{names[phase]} --> {_EDGE}" for event_id, phase in phase_of.items() if event_id in ends)


def _inner(module: Module, phase: Phase) -> Iterator[str]:
    """Yield the states and edges within one phase, as if it were a whole run."""
    names = {str(event.id): str(event.name) for event in module.own_events if event.phase == phase.name}
    events = tuple(event for event in module.own_events if event.phase == phase.name)
    alone = replace(phase, repeats=False, optional=False, anytime=False, terminal=False)
    lifecycle = Lifecycle.of(replace(module, phases=(alone,), events=events))
    for event in events:
        yield f'state "{_label(event)}" as {event.name}'
    yield from (f"{_EDGE} --> {names[first]}" for first in _unique(lifecycle.followers[""]))
    for event in events:
        yield from (f"{event.name} --> {names[after]}" for after in _unique(lifecycle.followers[event.id]))
    yield from (f"{event.name} --> {_EDGE}" for event in events if event.id in lifecycle.ends)


def _label(entry: Phase | EventSpec) -> str:
    """Return the label of a state: the name of a phase or the id of an event; neither can contain a quote."""
    if isinstance(entry, EventSpec):
        return str(entry.id)
    return f"{entry.name}, at any time" if entry.anytime else str(entry.name)


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
        return self._either(around.before, "the beginning of the run" if around.begins else None)

    def after(self, event: EventSpec) -> str:
        """Return what can come directly after an event, with links."""
        around = self._neighbours[event.id]
        if around.is_anytime:
            return "the end of the run" if around.ends else "any event"
        return self._either(around.after, "the end of the run" if around.ends else None)

    def _either(self, ids: tuple[str, ...], edge: str | None) -> str:
        return " or ".join([*map(self._event_link, ids), *([edge] if edge else [])])

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


def occurrence(entry: Phase | EventSpec) -> str:
    """Return how often a phase or an event occurs in a run, in words."""
    if isinstance(entry, Phase) and entry.anytime:
        often = "at any time"
    elif entry.repeats:
        often = "any number of times" if entry.optional else "once or more"
    else:
        often = "at most once" if entry.optional else "once"
    return f"{often}, then nothing follows" if isinstance(entry, Phase) and entry.terminal else often
