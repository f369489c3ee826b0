"""Rules about what a catalogue names outside of itself: it must be there to be imported."""

from collections.abc import Iterator
from typing import NamedTuple

from d9d_codegen import annotation
from d9d_codegen.importable import Missing
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Finding
from d9d_codegen.source import Span, Text
from d9d_codegen.spelling import suggestion


class _Use(NamedTuple):
    """A dotted path that leads out of the catalogue: who names it, in which text, and where in that."""

    user: str
    text: Text
    path: str
    offset: int


def unknown_module(catalogue: Catalogue) -> Iterator[Finding]:
    """A field's type or an event's context is in a module that cannot be imported."""
    for use, missing in _missing(catalogue):
        if not missing.is_module:
            continue
        if missing.module:
            message = f'{use.user} names "{use.path}", and {missing.module} has no module "{missing.part}"'
            otherwise = f"name a module of {missing.module}"
        else:
            message = f'{use.user} names "{use.path}", and no package "{missing.part}" is installed here'
            otherwise = "install it where the compiler is, or mend the name"
        yield Finding(_place(catalogue, use, missing), message, _remedy(missing, otherwise))


def unknown_type(catalogue: Catalogue) -> Iterator[Finding]:
    """A field's type or an event's context is a name that its module does not have."""
    for use, missing in _missing(catalogue):
        if not missing.is_module:
            message = f'{use.user} names "{use.path}", and {missing.module} has no "{missing.part}"'
            yield Finding(_place(catalogue, use, missing), message, _remedy(missing, f"see what {missing.module} has"))
    for use, known in _missing_beside(catalogue):
        message = f'{use.user} names "{use.path}", which no catalogue of this project declares'
        at = catalogue.source.within(use.text, use.offset, len(use.path))
        yield Finding(at, message, suggestion(use.path, known, "declare it there"))


def not_a_context(catalogue: Catalogue) -> Iterator[Finding]:
    """An event's context is something else in an installed catalogue, such as an event."""
    around = catalogue.surroundings
    if around is None:
        return
    for use in _uses_by_events(catalogue):
        module, _, name = use.path.rpartition(".")
        contexts = around.contexts_of(module.rpartition(".")[0])
        if contexts is None or around.importable.missing(use.path):
            continue
        if name not in {context.rpartition(".")[2] for context in contexts}:
            message = f'{use.user} names "{use.path}", which is no context'
            yield Finding(use.text, message, suggestion(use.path, contexts, "name a context of that catalogue"))


def _missing(catalogue: Catalogue) -> Iterator[tuple[_Use, Missing]]:
    around = catalogue.surroundings
    if around is None:
        return
    beside = {path for neighbour in around.neighbours for path in neighbour.module_paths}
    for use in _uses(catalogue):
        if use.path.rpartition(".")[0] in beside:
            continue
        missing = around.importable.missing(use.path)
        if missing:
            yield use, missing


def _missing_beside(catalogue: Catalogue) -> Iterator[tuple[_Use, list[str]]]:
    """Yield what is named of a catalogue of the same project, whose modules may not be generated yet."""
    neighbours = catalogue.surroundings.neighbours if catalogue.surroundings else ()
    if not neighbours:
        return
    modules = {path for neighbour in neighbours for path in neighbour.module_paths}
    contexts = [path for neighbour in neighbours for path in neighbour.contexts]
    for use in _uses(catalogue):
        if use.path.rpartition(".")[0] in modules and use.path not in contexts:
            yield use, contexts


def _uses(catalogue: Catalogue) -> Iterator[_Use]:
    yield from _uses_by_events(catalogue)
    for module in catalogue.modules:
        for context in module.contexts:
            for field in context.fields:
                for name in annotation.names_in(field.type):
                    if _leads_out(catalogue, name.path):
                        yield _Use(f"the type of field {field.name}", field.type, name.path, name.offset)


def _uses_by_events(catalogue: Catalogue) -> Iterator[_Use]:
    for module in catalogue.modules:
        for event in module.events:
            if _leads_out(catalogue, event.context):
                yield _Use(f"event {event.name}", event.context, event.context, 0)


def _leads_out(catalogue: Catalogue, path: str) -> bool:
    first, *others = path.split(".")
    is_path = first.isidentifier() and others and all(part.isidentifier() for part in others)
    return bool(is_path) and path.rpartition(".")[0] not in catalogue.module_paths


def _place(catalogue: Catalogue, use: _Use, missing: Missing) -> Span:
    return catalogue.source.within(use.text, use.offset + missing.offset, len(missing.part))


def _remedy(missing: Missing, otherwise: str) -> str:
    return f'did you mean "{missing.meant}"?' if missing.meant else otherwise
