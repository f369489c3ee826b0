"""What a template needs to know to write the API page of one module."""

from collections.abc import Iterator

from d9d_codegen import annotation
from d9d_codegen.diagram import state_diagram
from d9d_codegen.grammar import neighbours
from d9d_codegen.markdown import anchor, code
from d9d_codegen.model import Catalogue, Context, EventSpec, Module, Phase
from d9d_codegen.reference import Scope
from d9d_codegen.status import with_status

Uses = dict[str, list[tuple[Module, EventSpec]]]


def uses(catalogue: Catalogue) -> Uses:
    """Return, for the full dotted path of each context, the events that have it, with their modules."""
    found: Uses = {}
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for event in module.own_events:
            found.setdefault(scope.resolve(event.context) or event.context, []).append((module, event))
    return found


class Page:
    """The API page of one module.

    Args:
        catalogue: A catalogue without problems.
        module: The module in question.
        used: What `uses` says of the catalogue.
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
        """Return a link to a context; only its path where it is of another catalogue."""
        path = self._scope.resolve(name) or name
        if path not in self._catalogue.contexts:
            return code(path)
        *_, module, last = path.split(".")
        return self._link(module, last)

    def diagram(self) -> str:
        """Return the Mermaid diagram of the module's runs."""
        return state_diagram(self.module)

    def before(self, event: EventSpec) -> str:
        """Return what can come right before an event, with links."""
        beside = self._neighbours[event.id]
        if beside.is_anytime:
            return f"anything, once {self._event_link(beside.opening)} was triggered" if beside.opening else "anything"
        return self._either(beside.before, "the beginning of the run" if beside.begins else None)

    def after(self, event: EventSpec) -> str:
        """Return what can come right after an event, with links."""
        beside = self._neighbours[event.id]
        if beside.is_anytime:
            return "the end of the run" if beside.ends else "anything"
        return self._either(beside.after, "the end of the run" if beside.ends else None)

    def _either(self, ids: tuple[str, ...], edge: str | None) -> str:
        return " or ".join([*map(self._event_link, ids), *([edge] if edge else [])])

    def _event_link(self, event_id: str) -> str:
        return self._link(self.module.name, self._constants[event_id])

    def events_with(self, context: Context) -> str:
        """Return links to the events that have a context."""
        used = self._used.get(f"{self.path}.{context.name}", [])
        return ", ".join(self._link(module.name, event.name) for module, event in used)

    def deprecated_names(self) -> list[tuple[str, str, str]]:
        """Return the aliases among constants and contexts: their names, links to what they mean, and their docs."""
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
        """Return a type set as code."""
        return code(annotation.parse(expression).write(str))

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
