"""Rules about what the entries of a catalogue say about each other.

A misspelt name counts as a use of the closest name, and a missing one as a use of any, so that each mistake is reported
once.
"""

from collections.abc import Collection, Iterator

from d9d_codegen.catalogue import Catalogue, Module, Scope
from d9d_codegen.diagnostic import Text, Violation, closest, some_of, suggestion
from d9d_codegen.expression import BUILTINS, names_in_type


def unknown_phase(catalogue: Catalogue) -> Iterator[Violation]:
    """An event names a phase, or a phase stands around one, that its module does not declare."""
    for module in catalogue.modules:
        phases = {str(phase.name): phase for phase in module.phases}
        for event in module.events:
            if event.phase and event.phase not in phases:
                message = f'event {event.name} names the unknown phase "{event.phase}"'
                otherwise = f"the phases of {module.name} are {some_of(phases)}" if phases else "declare it"
                yield Violation(event.phase, message, suggestion(event.phase, phases, otherwise))

        for phase in module.phases:
            if phase.around and phase.around not in phases:
                message = f'phase "{phase.name}" stands around the unknown phase "{phase.around}"'
                otherwise = f"the phases of {module.name} are {some_of(phases)}"
                yield Violation(phase.around, message, suggestion(phase.around, phases, otherwise))


def unknown_event(catalogue: Catalogue) -> Iterator[Violation]:
    """An event ends, or comes after, one that its module does not declare."""
    for module in catalogue.modules:
        events = {str(event.name): event for event in module.events}
        for event in module.own_events:
            for key, name in (("ends", event.ends), ("after", event.after)):
                if name is None:
                    continue
                if name not in events:
                    message = f'`{key}` of {event.name} names the unknown event "{name}"'
                    others = [str(other) for other in events if other != event.name]
                    otherwise = f"name an event of {module.name}, by its constant"
                    yield Violation(name, message, suggestion(name, others, otherwise))
                elif events[name].status.replaced_by:
                    message = f"`{key}` of {event.name} names {name}, which is deprecated and never triggered"
                    yield Violation(name, message, f"name {events[name].status.replaced_by}")


def empty_phase(catalogue: Catalogue) -> Iterator[Violation]:
    """No event belongs to a phase."""
    for module in catalogue.modules:
        phases = {phase.name: phase for phase in module.phases}
        used = {_meant(event.phase, phases) for event in module.own_events}
        for phase in phases:
            if phase not in used and "" not in used:
                message = f'no event of {module.name} belongs to phase "{phase}"'
                yield Violation(phase, message, "remove it, or give it an event")


def unknown_context(catalogue: Catalogue) -> Iterator[Violation]:
    """An event names a context that does not exist."""
    paths: dict[str, list[str]] = {}
    for path in catalogue.contexts:
        paths.setdefault(path.rpartition(".")[2], []).append(path)
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for event in module.events:
            if event.context and scope.resolve(event.context) is None:
                message = f'event {event.name} names the unknown context "{event.context}"'
                last = event.context.rpartition(".")[2]
                elsewhere = [path for path in paths.get(last, ()) if path.endswith(f".{event.context}")]
                known = elsewhere or (catalogue.contexts if "." in event.context else scope.names)
                meant = elsewhere[0] if elsewhere else event.context
                otherwise = "declare it in this module or in common, or write its full dotted path"
                yield Violation(event.context, message, suggestion(meant, known, otherwise))


def bad_context(catalogue: Catalogue) -> Iterator[Violation]:
    """An event's context is not a dotted path."""
    for module in catalogue.modules:
        for event in module.events:
            if "." in event.context and not all(part.isidentifier() for part in event.context.split(".")):
                message = f'the context "{event.context}" of {event.name} is not a dotted path'
                yield Violation(event.context, message, "write the name of a context, or its full dotted path")


def unused_context(catalogue: Catalogue) -> Iterator[Violation]:
    """Neither an event nor another context uses a context."""
    used: set[str] = set()
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        known = dict.fromkeys(scope.names)
        for name in _named_contexts(module):
            used.add(scope.resolve(name) or scope.resolve(_meant(name, known)) or name)
    for module in catalogue.modules:
        for context in module.own_contexts:
            if "" not in used and f"{catalogue.package}.{module.name}.{context.name}" not in used:
                message = f"nothing uses context {context.name}"
                yield Violation(context.name, message, "remove it, or name it in an event")


def _named_contexts(module: Module) -> Iterator[str]:
    yield from (event.context for event in module.events)
    for context in module.contexts:
        for field in context.fields:
            names = {name.path for name in names_in_type(field.type)}
            yield from names - BUILTINS - {context.name}


def _meant(name: str, known: Collection[str]) -> str:
    return name if name in known else closest(name, known) or name


def import_cycle(catalogue: Catalogue) -> Iterator[Violation]:
    """Two modules use contexts of each other, directly or through others, so that neither can be imported first."""
    uses = {str(module.name): _uses(catalogue, module) for module in catalogue.modules}
    for module, used in uses.items():
        for other, place in used.items():
            if other != module and _reaches(other, module, uses):
                message = f"{module} uses a context of {other}, which imports {module}"
                yield Violation(place, message, "move the context that both need to common")


def _uses(catalogue: Catalogue, module: Module) -> dict[str, Text]:
    """Return the modules whose contexts a module uses, each with the first place where it does."""
    scope = Scope(catalogue, module)
    named = [(str(event.context), event.context) for event in module.events]
    for context in module.contexts:
        for field in context.fields:
            named += [(name.path, field.type) for name in names_in_type(field.type)]
    used: dict[str, Text] = {}
    for name, place in named:
        path = scope.resolve(name)
        if path in catalogue.contexts:
            used.setdefault(path.split(".")[-2], place)
    return used


def _reaches(start: str, goal: str, uses: dict[str, dict[str, Text]]) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        for other in uses.get(waiting.pop(), {}):
            if other == goal:
                return True
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return False
