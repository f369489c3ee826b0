"""What has changed about what is said of an entry: its doc, and how settled it is."""

from collections.abc import Iterator

from d9d_codegen.evolution.change import Change
from d9d_codegen.evolution.edition import Edition
from d9d_codegen.model import Context, EventSpec, Field


def status_changes(
    before: Edition, after: Edition, old: EventSpec | Context | Field, new: EventSpec | Context | Field
) -> Iterator[Change]:
    """Yield what has changed about what is said of an entry that both editions have."""
    here = before.place(old.name), after.place(new.name)
    was, now = old.status.deprecated, new.status.deprecated
    if now and not was:
        instead = f", in favour of {now.replaced_by}" if now.replaced_by else ""
        yield Change("deprecated", f"{new.name} is deprecated{instead}", here[0], after.place(now.key))
    if was and not now:
        yield Change("undeprecated", f"{new.name} is no longer deprecated", before.place(was.key), here[1])
    if old.status.stability != new.status.stability:
        says = f"{new.name} is {new.status.stability or 'of no said stability'}"
        yield Change("stability-changed", f"{says}, and was {old.status.stability or 'of none'}", *here)
    note = (was.since, was.replaced_by, was.note) if was else None
    says_else = now and was and note != (now.since, now.replaced_by, now.note)
    if old.doc.strip() != new.doc.strip():
        places = before.place(old.doc), after.place(new.doc)
        yield Change("documentation-changed", f"the doc of {new.name} has changed", *places)
    elif says_else or old.status.since != new.status.since:
        yield Change("documentation-changed", f"what is said of {new.name} has changed", *here)
