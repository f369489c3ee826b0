"""What has changed about what deprecated names stand for."""

from collections.abc import Iterator, Mapping

from d9d_codegen.evolution.change import Change, excuse
from d9d_codegen.evolution.edition import Edition
from d9d_codegen.model import Context, EventSpec, Field


def replacement_changes(
    before: Edition,
    after: Edition,
    old: Mapping[str, EventSpec | Context | Field],
    new: Mapping[str, EventSpec | Context | Field],
) -> Iterator[Change]:
    """Yield the aliases that stand for something else than before.

    Args:
        before: The old edition.
        after: The new one.
        old: The entries of one kind and one owner in the old edition, by name.
        new: The same of the new edition.
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
            places = before.place(stood_for), after.place(place)
            message = f"{name} stands for {itself}, and stood for {stood_for}"
            yield Change("replacement-changed", message, *places, excuse(entry.status))
