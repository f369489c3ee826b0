"""What has changed about the events of a module."""

from collections.abc import Iterator

from d9d_codegen.evolution.change import Change, excuse
from d9d_codegen.evolution.documentation import status_changes
from d9d_codegen.evolution.edition import Edition, event_target
from d9d_codegen.evolution.phases import occurrence
from d9d_codegen.evolution.replacement import replacement_changes
from d9d_codegen.model import EventSpec


def event_changes(before: Edition, after: Edition, module: str) -> Iterator[Change]:
    """Yield what has changed about the events of a module that at least one edition has."""
    old_events = before.modules[module].events if module in before.modules else ()
    new_events = after.modules[module].events if module in after.modules else ()
    old = {str(event.name): event for event in old_events}
    new = {str(event.name): event for event in new_events}
    yield from replacement_changes(before, after, old, new)
    renamed = {str(event.id): event for event in new_events if event.name not in old}
    for name, event in old.items():
        if name in new:
            yield from _kept(before, after, module, event, new[name])
        elif event.id in renamed:
            successor = renamed.pop(event.id)
            yield from _renamed(before, after, event, successor)
            yield from _content(before, after, module, event, successor)
        else:
            message, place = f"{module} has no event {name} any more", after.place(after.holder(module))
            reason = excuse(event.status, removal=True)
            yield Change("event-removed", message, before.place(event.name), place, reason)
    for event in renamed.values():
        message, place = f"{module} has a new event {event.name}", before.place(before.holder(module))
        yield Change("event-added", message, place, after.place(event.name))


def _renamed(before: Edition, after: Edition, old: EventSpec, new: EventSpec) -> Iterator[Change]:
    message = f'the constant of "{new.id}" is {new.name}, and was {old.name}'
    places = before.place(old.name), after.place(new.name)
    yield Change("constant-renamed", message, *places, excuse(old.status, removal=True))


def _kept(before: Edition, after: Edition, module: str, old: EventSpec, new: EventSpec) -> Iterator[Change]:
    """Yield what has changed about an event whose constant is still there."""
    yield from status_changes(before, after, old, new)
    was, stands_for = event_target(old, before.modules[module]), event_target(new, after.modules[module])
    if was is old and stands_for is new and old.id != new.id:
        message = f'the id of {new.name} is "{new.id}", and was "{old.id}"'
        yield Change("id-changed", message, before.place(old.id), after.place(new.id), excuse(old.status))
    if was is old:  # what an alias stood for is compared on its own
        yield from _content(before, after, module, old, stands_for)


def _content(before: Edition, after: Edition, module: str, old: EventSpec, new: EventSpec) -> Iterator[Change]:
    """Yield what has changed about the moment itself, whatever it is called."""
    old_path = after.successor(before.context_path(before.modules[module], old.context))
    new_path = after.successor(after.context_path(after.modules[module], new.context))
    if old_path != new_path:
        message = f'the context of {new.name} is "{new.context}", and was "{old.context}"'
        places = before.place(old.context), after.place(new.context)
        yield Change("context-changed", message, *places, excuse(old.status))
    if old.phase != new.phase:
        message = f"{new.name} belongs to phase {new.phase}, and belonged to {old.phase}"
        yield Change("phase-of-event-changed", message, before.place(old.phase), after.place(new.phase))
    if occurrence(old) != occurrence(new):
        message = f"{new.name} has {occurrence(new)}, and had {occurrence(old)}"
        yield Change("occurrence-changed", message, before.place(old.name), after.place(new.name))
