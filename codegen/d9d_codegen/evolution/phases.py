"""What has changed about the phases of a module, and about the order of its events: changes of the lifecycle."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from d9d_codegen.evolution.change import Change
from d9d_codegen.evolution.edition import Edition, event_target
from d9d_codegen.model import EventSpec, Phase

_PHASE_FLAGS = ("repeats", "optional", "anytime", "terminal")
_EVENT_FLAGS = ("repeats", "optional")


def phase_changes(before: Edition, after: Edition, module: str) -> Iterator[Change]:
    """Yield what has changed about the phases of a module of both editions, and about the order of its events."""
    if module not in after.modules:
        return
    old = {str(phase.name): phase for phase in before.modules[module].phases}
    new = {str(phase.name): phase for phase in after.modules[module].phases}
    for name, phase in old.items():
        if name not in new:
            place = after.place(after.holder(module))
            yield Change("phase-removed", f"{module} has no phase {name} any more", before.place(phase.name), place)
            continue
        yield from _flag_changes(before, after, phase, new[name])
    for name, phase in new.items():
        if name not in old:
            place = before.place(before.holder(module))
            yield Change("phase-added", f"{module} has a new phase {name}", place, after.place(phase.name))
    for name in moved([name for name in old if name in new], [name for name in new if name in old]):
        message = f"the phase {name} stands at another place in the order of {module}"
        yield Change("phase-moved", message, before.place(old[name].name), after.place(new[name].name))
    yield from _order_changes(before, after, module)


def occurrence(entry: Phase | EventSpec) -> str:
    """Return the flags of an entry, as they are declared."""
    flags = _PHASE_FLAGS if isinstance(entry, Phase) else _EVENT_FLAGS
    return ", ".join(flag for flag in flags if getattr(entry, flag)) or "no flags"


def moved(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the fewest items that have to move to turn one order into the other.

    The others are the longest subsequence that both orders share: patience sorting.

    Args:
        old: Items, each once.
        new: The same items.
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


def _flag_changes(before: Edition, after: Edition, old: Phase, new: Phase) -> Iterator[Change]:
    places = before.place(old.name), after.place(new.name)
    if occurrence(old) != occurrence(new):
        message = f"the phase {new.name} has {occurrence(new)}, and had {occurrence(old)}"
        yield Change("phase-changed", message, *places)
    if old.doc.strip() != new.doc.strip():
        doc_places = before.place(old.doc), after.place(new.doc)
        yield Change("documentation-changed", f"the doc of phase {new.name} has changed", *doc_places)


def _order_changes(before: Edition, after: Edition, module: str) -> Iterator[Change]:
    """Yield the events that are triggered at another place; a renamed event stands where its old name stood."""
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
        message = f"{name} stands at another place in the order of {module}"
        yield Change("order-changed", message, before.place(old[name].name), after.place(new[name].name))
