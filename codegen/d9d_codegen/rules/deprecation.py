"""Rules about versions: replacements of deprecated entries, and what stable entries depend on."""

from collections.abc import Iterator

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Field, Module, Scope, Status
from d9d_codegen.diagnostic import Span, Text, Violation, suggestion
from d9d_codegen.expression import TypeSyntaxError, names_in_type, parse_type


def unknown_replacement(catalogue: Catalogue) -> Iterator[Violation]:
    """A deprecated entry names a replacement that does not exist, is of another kind, or is deprecated itself."""
    for module in catalogue.modules:
        events = {event.name: event.status for event in module.events}
        contexts = {context.name: context.status for context in module.contexts}
        yield from _replacements(events, "event", dict.fromkeys(contexts, "is a context, not an event"))
        yield from _replacements(contexts, "context", dict.fromkeys(events, "is an event, not a context"))
        for context in module.contexts:
            yield from _replacements({field.name: field.status for field in context.fields}, "field", {})


def _replacements(entries: dict[Text, Status], noun: str, others: dict[Text, str]) -> Iterator[Violation]:
    live = {str(name): status for name, status in entries.items() if not status.deprecated}
    known = {**others, **dict.fromkeys(entries, "is deprecated itself")}
    for name, status in entries.items():
        replacement = status.replaced_by
        if replacement and replacement not in live:
            message = f'the replacement "{replacement}" of {noun} {name} {known.get(replacement, "does not exist")}'
            yield Violation(
                replacement, message, suggestion(replacement, live, f"use another {noun} that is not deprecated")
            )


def incompatible_replacement(catalogue: Catalogue) -> Iterator[Violation]:
    """A deprecated entry has another context, type or field than its replacement, which would break its users."""
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        yield from _incompatible_events(module, scope)
        yield from _incompatible_contexts(module, scope)
        for context in module.contexts:
            fields = {str(field.name): field for field in context.fields}
            for field in context.fields:
                new = fields.get(field.status.replaced_by or "")
                if new and _type(field, scope) != _type(new, scope):
                    message = f'field {field.name} is "{field.type}", but its replacement {new.name} is "{new.type}"'
                    remedy = "keep both fields: remove `replaced_by`, and describe the replacement in `note`"
                    yield Violation(field.type or field.name, message, remedy)


def _incompatible_events(module: Module, scope: Scope) -> Iterator[Violation]:
    events = {str(event.name): event for event in module.events}
    for event in module.events:
        new = events.get(event.status.replaced_by or "")
        if new and event.context and new.context and scope.resolve(event.context) != scope.resolve(new.context):
            message = f"{event.name} has context {event.context}, but its replacement {new.name} has {new.context}"
            remedy = "use the same context in both, or remove `replaced_by` to keep triggering both events"
            yield Violation(event.context, message, remedy)


def _incompatible_contexts(module: Module, scope: Scope) -> Iterator[Violation]:
    contexts = {str(context.name): context for context in module.contexts}
    for context in module.contexts:
        new = contexts.get(context.status.replaced_by or "")
        types = {str(field.name): _type(field, scope) for field in new.fields} if new else {}
        for field in context.fields if new else ():
            if types.get(field.name) != _type(field, scope):
                what = "has another type in" if field.name in types else "is missing from"
                message = f"field {field.name} of {context.name} {what} its replacement {context.status.replaced_by}"
                remedy = f"handlers that read it would break: declare it there too, as {field.type.strip()}"
                yield Violation(field.name, message, remedy)


def less_stable(catalogue: Catalogue) -> Iterator[Violation]:
    """An entry depends on a less stable context: a stable entry on an experimental one, or any entry on an alias."""
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for owner, name, place in _dependencies(catalogue, module):
            base = _context(catalogue, scope, name)
            if base is None or owner.status.deprecated:
                continue
            if base.status.replaced_by:
                remedy = f"use {base.status.replaced_by}"
                yield Violation(place, f"{owner.name} depends on {base.name}, which is deprecated", remedy)
            elif owner.status.stability == "stable" and base.status.stability == "experimental":
                message = f"{owner.name} is stable but depends on {base.name}, which is experimental"
                yield Violation(place, message, f"make {base.name} stable, or {owner.name} experimental")


def _dependencies(catalogue: Catalogue, module: Module) -> Iterator[tuple[EventSpec | Field, str, Text | Span]]:
    for event in module.events:
        yield event, event.context, event.context
    for context in module.own_contexts:
        for field in context.fields:
            for name in names_in_type(field.type):
                yield field, name.path, catalogue.source.within(field.type, name.offset, len(name.path))


def _context(catalogue: Catalogue, scope: Scope, name: str) -> Context | None:
    return catalogue.contexts.get(scope.path(name) or "")


def _type(field: Field, scope: Scope) -> str:
    """Return a field's type with its names resolved; as it was typed where it is not valid."""
    try:
        return parse_type(field.type).write(lambda name: scope.resolve(name) or name)
    except TypeSyntaxError:
        return field.type
