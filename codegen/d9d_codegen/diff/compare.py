"""The changes between two versions of a catalogue: its modules, phases, contexts, fields, events and aliases."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Field, Module, Phase, Scope
from d9d_codegen.diagnostic import Text
from d9d_codegen.diff.change import Change, Position, justification
from d9d_codegen.diff.widening import Relation, relation
from d9d_codegen.expression import BUILTINS, TypeSyntaxError, parse_type

_Entry = TypeVar("_Entry", EventSpec, Field, Context)


class Version:
    """A version of a catalogue, with the look-ups that a comparison needs.

    Args:
        catalogue: The catalogue of that version.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.modules = {str(module.name): module for module in catalogue.modules}
        self._scopes = {name: Scope(catalogue, module) for name, module in self.modules.items()}
        self._paths = {f".{path.removeprefix(f'{catalogue.package}.')}": path for path in catalogue.contexts}

    def position(self, text: Text) -> Position:
        """Return the position of a text of this version."""
        return Position(self.catalogue.source, text)

    def holder(self, module: str) -> Text:
        """Return the name of a module, or the package where there is no such module."""
        return self.modules[module].name if module in self.modules else self.catalogue.package

    def context_path(self, module: Module, name: str) -> str:
        """Return what a context's name stands for, independent of the name of the package."""
        path = self._scopes[module.name].resolve(name) or name
        inner = f".{path.removeprefix(f'{self.catalogue.package}.')}"
        return inner if inner in self._paths and self._paths[inner] == path else path

    def successor(self, path: str) -> str:
        """Return the context that a deprecated context is an alias of; any other context unchanged."""
        context = self.catalogue.contexts[self._paths[path]] if path in self._paths else None
        if context is None or not context.status.replaced_by:
            return path
        return f"{path.rpartition('.')[0]}.{context.status.replaced_by}"

    def type_text(self, module: Module, field: Field, following: "Version") -> str:
        """Return a field's type with each name resolved in the version that follows."""

        def spell(name: str) -> str:
            if name in BUILTINS:
                return name
            path = following.successor(self.context_path(module, name))
            return f"own{path}" if path.startswith(".") else path

        try:
            return parse_type(field.type).write(spell)
        except TypeSyntaxError:
            return field.type


def event_target(event: EventSpec, module: Module) -> EventSpec:
    """Return the event that a deprecated event is an alias of; any other event unchanged."""
    return _target(event, {str(other.name): other for other in module.events})


def field_target(field: Field, context: Context) -> Field:
    """Return the field that a deprecated field is an alias of; any other field unchanged."""
    return _target(field, {str(other.name): other for other in context.fields})


def context_target(context: Context, module: Module) -> Context:
    """Return the context that a deprecated context is an alias of; any other context unchanged."""
    return _target(context, {str(other.name): other for other in module.contexts})


def _target(entry: _Entry, siblings: dict[str, _Entry]) -> _Entry:
    return siblings.get(entry.status.replaced_by or "", entry)


def status_changes(
    before: Version, after: Version, old: EventSpec | Context | Field, new: EventSpec | Context | Field
) -> Iterator[Change]:
    """Yield the changes of an entry's doc and stability."""
    here = before.position(old.name), after.position(new.name)
    was, now = old.status.deprecated, new.status.deprecated
    if now and not was:
        instead = f", in favour of {now.replaced_by}" if now.replaced_by else ""
        yield Change("deprecated", f"{new.name} is deprecated{instead}", here[0], after.position(now.key))
    if was and not now:
        yield Change("undeprecated", f"{new.name} is no longer deprecated", before.position(was.key), here[1])
    if old.status.stability != new.status.stability:
        was_stability, now_stability = (each.status.stability or "unspecified" for each in (old, new))
        message = f"the stability of {new.name} was {was_stability} and is now {now_stability}"
        yield Change("stability-changed", message, *here)
    note = (was.since, was.replaced_by, was.note) if was else None
    says_else = now and was and note != (now.since, now.replaced_by, now.note)
    if old.doc.strip() != new.doc.strip():
        places = before.position(old.doc), after.position(new.doc)
        yield Change("documentation-changed", f"the doc of {new.name} has changed", *places)
    elif says_else or old.status.since != new.status.since:
        yield Change("documentation-changed", f"`since` or `deprecated` of {new.name} has changed", *here)


def replacement_changes(
    before: Version,
    after: Version,
    old: Mapping[str, EventSpec | Context | Field],
    new: Mapping[str, EventSpec | Context | Field],
) -> Iterator[Change]:
    """Yield the aliases that stand for something else than before.

    Args:
        before: The old version.
        after: The new version.
        old: The entries of one kind and one owner in the old version, by name.
        new: The same of the new version.
    """
    for name, entry in old.items():
        stood_for = entry.status.replaced_by
        if not stood_for or name not in new or stood_for not in new:
            continue
        successor = new[stood_for].status.replaced_by or stood_for
        stands_for = new[name].status.replaced_by or name
        if stands_for != successor:
            itself = "itself" if stands_for == name else stands_for
            place = new[name].status.replaced_by or new[name].name
            places = before.position(stood_for), after.position(place)
            message = f"the deprecated {name} stood for {stood_for} and now stands for {itself}"
            yield Change("replacement-changed", message, *places, justification(entry.status))


_PHASE_FLAGS = ("repeats", "optional", "anytime", "around", "any_order", "aborts", "terminal")
_EVENT_FLAGS = ("repeats", "optional")


def phase_changes(before: Version, after: Version, module: str) -> Iterator[Change]:
    """Yield the changes of a module's phases, and of the order of its events."""
    if module not in after.modules:
        return
    old = {str(phase.name): phase for phase in before.modules[module].phases}
    new = {str(phase.name): phase for phase in after.modules[module].phases}
    for name, phase in old.items():
        if name not in new:
            place = after.position(after.holder(module))
            yield Change("phase-removed", f"{module} no longer has a phase {name}", before.position(phase.name), place)
            continue
        yield from _flag_changes(before, after, phase, new[name])
    for name, phase in new.items():
        if name not in old:
            place = before.position(before.holder(module))
            yield Change("phase-added", f"{module} has a new phase {name}", place, after.position(phase.name))
    for name in moved([name for name in old if name in new], [name for name in new if name in old]):
        message = f"the phase {name} has another position in {module}"
        yield Change("phase-moved", message, before.position(old[name].name), after.position(new[name].name))
    yield from _order_changes(before, after, module)


def occurrence(entry: Phase | EventSpec) -> str:
    """Return the flags of an entry, as declared."""
    flags = _PHASE_FLAGS if isinstance(entry, Phase) else _EVENT_FLAGS
    given = {flag: getattr(entry, flag) for flag in flags}
    return (
        ", ".join(f"{flag} {value}" if isinstance(value, str) else flag for flag, value in given.items() if value)
        or "none"
    )


def moved(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the fewest items that have to move to turn one order into the other.

    The items that stay are a longest common subsequence, found by patience sorting.

    Args:
        old: Items, each once.
        new: The same items in another order.
    """
    positions = {name: at for at, name in enumerate(old)}
    tops: list[int] = []  # the smallest last position of an increasing subsequence of each length
    lengths = []
    for name in new:
        at = bisect_left(tops, positions[name])
        tops[at : at + 1] = [positions[name]]
        lengths.append(at + 1)
    wanted, going = len(tops), []
    for name, length in zip(reversed(new), reversed(lengths), strict=True):
        stays = length == wanted
        wanted -= stays
        if not stays:
            going.append(name)
    return going[::-1]


def _flag_changes(before: Version, after: Version, old: Phase, new: Phase) -> Iterator[Change]:
    places = before.position(old.name), after.position(new.name)
    if occurrence(old) != occurrence(new):
        message = f"the flags of phase {new.name} were {occurrence(old)} and are now {occurrence(new)}"
        yield Change("phase-changed", message, *places)
    if old.doc.strip() != new.doc.strip():
        doc_places = before.position(old.doc), after.position(new.doc)
        yield Change("documentation-changed", f"the doc of phase {new.name} has changed", *doc_places)


def _order_changes(before: Version, after: Version, module: str) -> Iterator[Change]:
    """Yield the events that moved; a renamed event takes the position of its old name."""
    old_module, new_module = before.modules[module], after.modules[module]
    targets = {str(event.name): event_target(event, new_module) for event in new_module.events}
    by_id = {str(event.id): event for event in new_module.events}
    old: dict[str, EventSpec] = {}
    for event in old_module.events:
        found = targets.get(event.name) or by_id.get(event.id)
        if found and event_target(event, old_module) is event:
            old.setdefault(str(found.name), event)
    new = {str(event.name): event for event in new_module.events if event.name in old}
    for name in moved([name for name in old if name in new], list(new)):
        message = f"{name} has another position in {module}"
        yield Change("order-changed", message, before.position(old[name].name), after.position(new[name].name))


def event_changes(before: Version, after: Version, module: str) -> Iterator[Change]:
    """Yield the changes of the events of a module that exists in at least one version."""
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
            message, place = f"{module} no longer has an event {name}", after.position(after.holder(module))
            reason = justification(event.status, removal=True)
            yield Change("event-removed", message, before.position(event.name), place, reason)
    for event in renamed.values():
        message, place = f"{module} has a new event {event.name}", before.position(before.holder(module))
        yield Change("event-added", message, place, after.position(event.name))


def _renamed(before: Version, after: Version, old: EventSpec, new: EventSpec) -> Iterator[Change]:
    message = f'the constant of "{new.id}" was {old.name} and is now {new.name}'
    places = before.position(old.name), after.position(new.name)
    yield Change("constant-renamed", message, *places, justification(old.status, removal=True))


def _kept(before: Version, after: Version, module: str, old: EventSpec, new: EventSpec) -> Iterator[Change]:
    """Yield the changes of an event whose constant still exists."""
    yield from status_changes(before, after, old, new)
    was, stands_for = event_target(old, before.modules[module]), event_target(new, after.modules[module])
    if was is old and stands_for is new and old.id != new.id:
        message = f'the id of {new.name} was "{old.id}" and is now "{new.id}"'
        yield Change("id-changed", message, before.position(old.id), after.position(new.id), justification(old.status))
    if was is old:  # the target of an alias is compared on its own
        yield from _content(before, after, module, old, stands_for)


def _content(before: Version, after: Version, module: str, old: EventSpec, new: EventSpec) -> Iterator[Change]:
    """Yield the changes of the moment itself, independent of its name."""
    old_path = after.successor(before.context_path(before.modules[module], old.context))
    new_path = after.successor(after.context_path(after.modules[module], new.context))
    if old_path != new_path:
        message = f'the context of {new.name} was "{old.context}" and is now "{new.context}"'
        places = before.position(old.context), after.position(new.context)
        yield Change("context-changed", message, *places, justification(old.status))
    if old.phase != new.phase:
        message = f"{new.name} belonged to phase {old.phase} and now belongs to {new.phase}"
        yield Change("phase-of-event-changed", message, before.position(old.phase), after.position(new.phase))
    if occurrence(old) != occurrence(new):
        message = f"the flags of {new.name} were {occurrence(old)} and are now {occurrence(new)}"
        yield Change("occurrence-changed", message, before.position(old.name), after.position(new.name))
    for key in ("ends", "after"):
        yield from _relation_changes(before, after, module, (old, new), key)


def _relation_changes(
    before: Version, after: Version, module: str, events: tuple[EventSpec, EventSpec], key: str
) -> Iterator[Change]:
    """Yield the change of the event that an event closes, or comes after; one that was renamed is the same."""
    old, new = events
    was, now = getattr(old, key), getattr(new, key)
    known = {str(event.name): event for event in after.modules[module].events}
    by_id = {str(event.id): str(event.name) for event in after.modules[module].events}
    ids = {str(event.name): str(event.id) for event in before.modules[module].events}
    if was and was not in known:
        meant = by_id.get(ids.get(was, ""), str(was))
    else:
        meant = str(event_target(known[was], after.modules[module]).name) if was else ""
    if meant != (now or ""):
        message = f"`{key}` of {new.name} was {was or 'not given'} and is now {now or 'not given'}"
        yield Change("relation-changed", message, before.position(was or old.name), after.position(now or new.name))


class _ContextPair(NamedTuple):
    """A context in both versions, and its module."""

    before: Version
    after: Version
    module: str
    old: Context
    new: Context


def context_changes(before: Version, after: Version, module: str) -> Iterator[Change]:
    """Yield the changes of the contexts of a module that exists in at least one version."""
    old = (
        {str(context.name): context for context in before.modules[module].contexts} if module in before.modules else {}
    )
    new = {str(context.name): context for context in after.modules[module].contexts} if module in after.modules else {}
    yield from replacement_changes(before, after, old, new)
    for name, context in old.items():
        if name not in new:
            message, place = f"{module} no longer has a context {name}", after.position(after.holder(module))
            reason = justification(context.status, removal=True)
            yield Change("context-removed", message, before.position(context.name), place, reason)
            continue
        yield from status_changes(before, after, context, new[name])
        if context_target(context, before.modules[module]) is context:
            stands_for = context_target(new[name], after.modules[module])
            yield from _field_changes(_ContextPair(before, after, module, context, stands_for))
    for name, context in new.items():
        if name not in old:
            message, place = f"{module} has a new context {name}", before.position(before.holder(module))
            yield Change("context-added", message, place, after.position(context.name))


def _field_changes(pair: _ContextPair) -> Iterator[Change]:
    before, after, _, old_context, new_context = pair
    old = {str(field.name): field for field in old_context.fields}
    new = {str(field.name): field for field in new_context.fields}
    replacing: set[str] = set()
    yield from replacement_changes(before, after, old, new)
    for name, field in old.items():
        if name not in new:
            message = f"{new_context.name} no longer has a field {name}"
            reason = justification(field.status, old_context.status, removal=True)
            yield Change(
                "field-removed", message, before.position(field.name), after.position(new_context.name), reason
            )
            continue
        yield from status_changes(before, after, field, new[name])
        stands_for = field_target(new[name], new_context)
        if stands_for is not new[name]:
            replacing.add(str(stands_for.name))
        if field_target(field, old_context) is field:
            yield from _value_changes(pair, field, stands_for)
        elif stands_for is new[name] and stands_for.default is None:
            message = f"{name} no longer has `replaced_by`, and has no default"
            places = before.position(field.name), after.position(stands_for.name)
            yield Change("field-required", message, *places, justification(old_context.status))
    for name, field in new.items():
        if name not in old:
            is_optional = field.default is not None or name in replacing
            message = f"{new_context.name} has a new field {name}"
            places = before.position(old_context.name), after.position(field.name)
            if is_optional:
                yield Change("field-added", message, *places)
            else:
                yield Change(
                    "field-required", f"{message} without a default", *places, justification(old_context.status)
                )


def _value_changes(pair: _ContextPair, old: Field, new: Field) -> Iterator[Change]:
    before, after, module, old_context, _ = pair
    reason = justification(old.status, old_context.status)
    old_type = before.type_text(before.modules[module], old, after)
    new_type = after.type_text(after.modules[module], new, after)
    kinds = {Relation.WIDENED: "type-widened", Relation.NARROWED: "type-narrowed", Relation.CHANGED: "type-changed"}
    found = relation(old_type, new_type)
    message = f'the type of {new.name} was "{old.type.strip()}" and is now "{new.type.strip()}"'
    places = before.position(old.type), after.position(new.type)
    if found in kinds:
        yield Change(kinds[found], message, *places, reason)
    elif old_type != new_type:
        yield Change("type-respelt", message, *places)
    yield from _default_changes(pair, old, new, reason)
    if old.device != new.device:
        kind = "moved-to-device" if new.device else "moved-to-host"
        message = f"{new.name} is now on the {'device' if new.device else 'host'}"
        yield Change(kind, message, before.position(old.name), after.position(new.name), reason)


def _default_changes(pair: _ContextPair, old: Field, new: Field, reason: str | None) -> Iterator[Change]:
    before, after = pair.before, pair.after
    if old.default == new.default:
        return
    if new.default is None:
        message = f"{new.name} no longer has a default"
        yield Change(
            "default-removed", message, before.position(old.default or old.name), after.position(new.name), reason
        )
    elif old.default is None:
        message = f"{new.name} now has a default"
        yield Change("default-added", message, before.position(old.name), after.position(new.default))
    else:
        message = f"the default of {new.name} was {old.default} and is now {new.default}"
        yield Change("default-changed", message, before.position(old.default), after.position(new.default))


def compare_all(old: Sequence[Catalogue], new: Sequence[Catalogue]) -> list[Change]:
    """Return every change between two versions of a project's catalogues.

    A catalogue is the same one if it has the same package, or else the same name in both versions.
    """
    pairs = [(one, other) for one in old for other in new if one.package == other.package]
    paired = [each for pair in pairs for each in pair]
    rest = [one for one in old if one not in paired], [other for other in new if other not in paired]
    if len(old) == len(new) == 1:  # files may have any names
        pairs, rest = [(old[0], new[0])], ([], [])
    for one in rest[0][:]:
        for other in [other for other in rest[1] if other.source.path.name == one.source.path.name][:1]:
            pairs.append((one, other))
            rest[0].remove(one)
            rest[1].remove(other)
    changes = [change for one, other in pairs for change in compare(one, other)]
    for one in rest[0]:
        message = f"there is no catalogue of {one.package} any more"
        statuses = [entry.status for module in one.modules for entry in module.entries]
        reasons = [justification(status, removal=True) for status in statuses]
        reason = reasons[0] if reasons and all(reasons) else None
        place, instead = Version(one).position(one.package), new[0] if new else one
        changes.append(Change("catalogue-removed", message, place, Version(instead).position(instead.package), reason))
    for other in rest[1]:
        message, instead = f"there is a new catalogue of {other.package}", old[0] if old else other
        place = Version(other).position(other.package)
        changes.append(Change("catalogue-added", message, Version(instead).position(instead.package), place))
    return changes


def compare(old: Catalogue, new: Catalogue) -> list[Change]:
    """Return every change of one catalogue, in the order of the new version."""
    before, after = Version(old), Version(new)
    changes = [*_package_changes(before, after)]
    for name, module in before.modules.items():
        if name not in after.modules:
            changes.append(_removed(before, after, module))
        changes += phase_changes(before, after, name)
        changes += context_changes(before, after, name)
        changes += event_changes(before, after, name)
    for name, module in after.modules.items():
        if name not in before.modules:
            message = f"there is a new module {name}"
            changes.append(
                Change("module-added", message, before.position(before.holder(name)), after.position(module.name))
            )
            changes += context_changes(before, after, name)
            changes += event_changes(before, after, name)
    return sorted(changes, key=lambda change: (change.new.text.span, change.old.text.span, change.kind, change.message))


def _package_changes(before: Version, after: Version) -> Iterator[Change]:
    old, new = before.catalogue.package, after.catalogue.package
    if old != new:
        message = f'the package was "{old}" and is now "{new}"'
        yield Change("package-changed", message, before.position(old), after.position(new))


def _removed(before: Version, after: Version, module: Module) -> Change:
    """Return the removal of a module, which is justified where the removal of everything in it is."""
    statuses = [event.status for event in module.events] + [context.status for context in module.contexts]
    justifications = [justification(status, removal=True) for status in statuses]
    return Change(
        "module-removed",
        f"the module {module.name} no longer exists",
        before.position(module.name),
        after.position(after.holder(module.name)),
        justifications[0] if justifications and all(justifications) else None,
    )
