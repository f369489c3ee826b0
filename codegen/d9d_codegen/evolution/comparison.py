"""What has changed between two editions of a catalogue."""

from collections.abc import Iterator

from d9d_codegen.evolution.change import Change, excuse
from d9d_codegen.evolution.contexts import context_changes
from d9d_codegen.evolution.edition import Edition
from d9d_codegen.evolution.events import event_changes
from d9d_codegen.evolution.phases import phase_changes
from d9d_codegen.model import Catalogue, Module


def compare(old: Catalogue, new: Catalogue) -> list[Change]:
    """Return every change, in the order of the new edition."""
    before, after = Edition(old), Edition(new)
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
            changes.append(Change("module-added", message, before.place(before.holder(name)), after.place(module.name)))
            changes += context_changes(before, after, name)
            changes += event_changes(before, after, name)
    return sorted(changes, key=lambda change: (change.new.text.span, change.old.text.span, change.kind, change.message))


def _package_changes(before: Edition, after: Edition) -> Iterator[Change]:
    old, new = before.catalogue.package, after.catalogue.package
    if old != new:
        message = f'the package is "{new}", and was "{old}"'
        yield Change("package-changed", message, before.place(old), after.place(new))


def _removed(before: Edition, after: Edition, module: Module) -> Change:
    """Return the removal of a module, which is excused where that of everything in it is."""
    statuses = [event.status for event in module.events] + [context.status for context in module.contexts]
    excuses = [excuse(status, removal=True) for status in statuses]
    return Change(
        "module-removed",
        f"there is no module {module.name} any more",
        before.place(module.name),
        after.place(after.holder(module.name)),
        excuses[0] if excuses and all(excuses) else None,
    )
