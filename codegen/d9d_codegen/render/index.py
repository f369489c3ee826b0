"""The index of a catalogue, `index.json`: what type checkers and recorders of runs need, as data."""

import json
from collections.abc import Iterable, Iterator

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Field, Module, Phase, Scope, Status
from d9d_codegen.files import unsealed
from d9d_codegen.lifecycle import grammar, other_sides
from d9d_codegen.render.python_module import aliases, ids_in_step


def index_text(catalogue: Catalogue, generated_by: str, files: Iterable[str]) -> str:
    """Return the text of `index.json`.

    Args:
        catalogue: A valid catalogue.
        generated_by: The notice about its origin.
        files: The generated files, relative to the project's root.
    """
    content = {
        "package": catalogue.package,
        "files": list(files),
        "modules": {
            module.name: {
                "phases": [_phase(phase) for phase in module.phases],
                **({"lifecycle": grammar(module)} if module.own_events else {}),
            }
            for module in catalogue.modules
        },
        "events": {path: event for module in catalogue.modules for path, event in _events(catalogue, module)},
        "contexts": {
            f"{catalogue.package}.{module.name}.{context.name}": _context(context)
            for module in catalogue.modules
            for context in module.own_contexts
        },
        "aliases": {name: alias for module in catalogue.modules for name, alias in _aliases(catalogue, module)},
    }
    head = {"version": 1, "generated_by": generated_by, "digests": unsealed(content)}
    return json.dumps({**head, **content}, indent=2, ensure_ascii=False) + "\n"


def _phase(phase: Phase) -> dict[str, object]:
    return {
        "name": phase.name,
        "repeats": phase.repeats,
        "optional": phase.optional,
        "anytime": phase.anytime,
        "terminal": phase.terminal,
        **({"around": phase.around} if phase.around else {}),
        **({"any_order": True} if phase.any_order else {}),
        **({"aborts": True} if phase.aborts else {}),
    }


def _events(catalogue: Catalogue, module: Module) -> Iterator[tuple[str, dict[str, object]]]:
    scope, others, in_step = Scope(catalogue, module), other_sides(module), ids_in_step(catalogue, module)
    prefix = f"{catalogue.package}.{module.name}."
    for event in module.own_events:
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
                "in_step": event.id in in_step,
                **({"ends": prefix + event.ends} if event.ends else {}),
                **({"after": prefix + event.after} if event.after else {}),
                **_status(event.status),
            },
        )


def _context(context: Context) -> dict[str, object]:
    fields = {field.name: field.type.strip() for field in context.own_fields}
    deprecated = {field.name: _deprecation(field.status) for field in context.own_fields if field.status.deprecated}
    device = [field.name for field in context.own_fields if field.device]
    return {
        "fields": fields,
        **({"device_fields": device} if device else {}),
        **({"deprecated_fields": deprecated} if deprecated else {}),
        **_status(context.status),
    }


def _aliases(catalogue: Catalogue, module: Module) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the deprecated names of a module, those of fields included, with everything that is known about them."""
    prefix = f"{catalogue.package}.{module.name}"
    for entry, target in aliases(catalogue, module):
        replacement = target if "." in target else f"{prefix}.{target}"
        yield f"{prefix}.{entry.name}", _alias(entry, replacement)
    for context in module.own_contexts:
        owner = f"{prefix}.{context.name}"
        for field in context.fields:
            if field.status.replaced_by:
                yield f"{owner}.{field.name}", _alias(field, f"{owner}.{field.status.replaced_by}")


def _alias(entry: EventSpec | Context | Field, replacement: str) -> dict[str, object]:
    given = {"id": entry.id} if isinstance(entry, EventSpec) else {}
    return {**given, "replaced_by": replacement, **_status(entry.status)}


def _status(status: Status) -> dict[str, object]:
    given = {"since": status.since, "stability": status.stability, "deprecated": _deprecation(status)}
    return {key: value for key, value in given.items() if value is not None}


def _deprecation(status: Status) -> dict[str, object] | None:
    deprecated = status.deprecated
    if not deprecated:
        return None
    return {"since": deprecated.since, "replaced_by": deprecated.replaced_by, "note": deprecated.note}
