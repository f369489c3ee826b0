"""The index of a catalogue: all that a type checker or a recorder of runs wants to know, as data."""

import json
from collections.abc import Iterable, Iterator

from d9d_codegen import grammar
from d9d_codegen.model import Catalogue, Context, Module, Phase, Status
from d9d_codegen.pair import other_sides
from d9d_codegen.reference import Scope


def index(catalogue: Catalogue, generated_by: str, files: Iterable[str]) -> str:
    """Returns the text of `index.json`.

    Args:
        catalogue: A catalogue without problems.
        generated_by: Says where the index comes from.
        files: The files that are the catalogue's own, whatever they hold, relative to the project's root.
    """
    content = {
        "version": 1,
        "generated_by": generated_by,
        "package": catalogue.package,
        "files": list(files),
        "modules": {
            module.name: {
                "phases": [_phase(phase) for phase in module.phases],
                **({"lifecycle": grammar.as_data(module)} if module.events else {}),
            }
            for module in catalogue.modules
        },
        "events": {path: event for module in catalogue.modules for path, event in _events(catalogue, module)},
        "contexts": {
            f"{catalogue.package}.{module.name}.{context.name}": _context(context)
            for module in catalogue.modules
            for context in module.contexts
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _phase(phase: Phase) -> dict[str, object]:
    return {
        "name": phase.name,
        "repeats": phase.repeats,
        "optional": phase.optional,
        "anytime": phase.anytime,
        "terminal": phase.terminal,
    }


def _events(catalogue: Catalogue, module: Module) -> Iterator[tuple[str, dict[str, object]]]:
    scope, others = Scope(catalogue, module), other_sides(module)
    prefix = f"{catalogue.package}.{module.name}."
    for event in module.events:
        other = others.get(event.id)
        yield (
            prefix + event.name,
            {
                "id": event.id,
                "module": module.name,
                "phase": event.phase,
                "context": scope.resolve(event.context),
                "pair": prefix + other.name if other else None,
                "repeats": event.repeats,
                "optional": event.optional,
                **_status(event.status),
            },
        )


def _context(context: Context) -> dict[str, object]:
    fields = {field.name: field.type.strip() for field in context.fields}
    return {"fields": fields, **_status(context.status)}


def _status(status: Status) -> dict[str, object]:
    given: dict[str, object] = {"since": status.since, "stability": status.stability}
    if status.deprecated:
        deprecated = status.deprecated
        given["deprecated"] = {
            "since": deprecated.since,
            "replaced_by": deprecated.replaced_by,
            "note": deprecated.note,
        }
    return {key: value for key, value in given.items() if value is not None}
