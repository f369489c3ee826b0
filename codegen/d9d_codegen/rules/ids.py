"""Rules about the ids of events."""

import re
from collections.abc import Iterator
from typing import Final

from d9d_codegen.model import Catalogue, EventSpec, Module
from d9d_codegen.problem import Finding

ID: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
"""The grammar of ids; the mypy plugin has the same, and a test holds the two together."""


def bad_id(catalogue: Catalogue) -> Iterator[Finding]:
    """An id is not made of lower-case segments that are joined by dots."""
    for module, event in _events(catalogue):
        if not ID.fullmatch(event.id):
            message = f'the id "{event.id}" of {event.name} is not made of lower-case segments joined by dots'
            yield Finding(event.id, message, f'write something like "{module.name}.something"')


def foreign_id(catalogue: Catalogue) -> Iterator[Finding]:
    """An id does not begin with the name of its module."""
    modules = {str(module.name) for module in catalogue.modules}
    owners = catalogue.surroundings.owners if catalogue.surroundings else {}
    for module, event in _events(catalogue):
        first, _, rest = event.id.partition(".")
        if first == module.name or not (ID.fullmatch(event.id) and ID.fullmatch(f"{module.name}.{rest}")):
            continue
        if first in owners and first not in modules:
            continue  # told by the rule owned-namespace
        message = f'the id "{event.id}" of {event.name} is outside its module, "{module.name}"'
        if first in modules:
            yield Finding(event.id, message, f'move the event to "{first}", or begin its id with "{module.name}."')
        else:
            yield Finding(event.id, message, f'did you mean "{module.name}.{rest}"?')


def duplicate_id(catalogue: Catalogue) -> Iterator[Finding]:
    """Two events have one id, and neither is but another name of the other."""
    first: dict[str, EventSpec] = {}
    for module, event in _events(catalogue):
        other = first.setdefault(event.id, event)
        if other is not event and not _mean_the_same(event, other, module):
            message = f'{event.name} has the id "{event.id}", which {other.name} has already'
            yield Finding(event.id, message, f"the first one stands in line {other.id.span.line}")


def _mean_the_same(event: EventSpec, other: EventSpec, module: Module) -> bool:
    meanings = {str(each.status.replaced_by or each.name) for each in (event, other)}
    return len(meanings) == 1 and event.name != other.name and other in module.events


def _events(catalogue: Catalogue) -> Iterator[tuple[Module, EventSpec]]:
    """Yield the events that have an id at all, with their modules."""
    for module in catalogue.modules:
        yield from ((module, event) for event in module.events if event.id)
