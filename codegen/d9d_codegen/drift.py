"""How the files on disk differ from what a catalogue says, as problems."""

from collections.abc import Iterable, Iterator
from difflib import unified_diff
from pathlib import Path

from d9d_codegen.digest import body_of, digests_in
from d9d_codegen.problem import Problem
from d9d_codegen.write import Change


def drift(changes: Iterable[Change], catalogue: Path) -> Iterator[Problem]:
    """Yield a problem for each file that is not as a catalogue says.

    Args:
        changes: The files in question.
        catalogue: The catalogue.
    """
    option = "" if catalogue == Path("catalogue.yaml") else f" --catalogue {catalogue}"
    remedy = f"run `d9d-catalogue generate{option}`"
    for change in changes:
        if change.is_foreign:
            yield foreign(change)
        elif change.before is None:
            yield Problem(change.path, "missing", f"{catalogue.name} says that there is such a file", remedy)
        elif change.after is None:
            yield Problem(change.path, "orphaned", f"{catalogue.name} says nothing of this file any more", remedy)
        else:
            yield _outdated(change, change.before, change.after, catalogue.name, remedy)


def foreign(change: Change) -> Problem:
    """Return the problem that a file somebody wrote stands where a generated one should."""
    message = "a file stands here that was not generated"
    return Problem(change.path, "not-generated", message, "move it away, or give the module another name")


def _outdated(change: Change, before: bytes, after: bytes, catalogue: str, remedy: str) -> Problem:
    """Return the problem of a file that differs, with who changed: the file, the catalogue, or both."""
    digests, wanted = digests_in(before), digests_in(after)
    if wanted is None:
        message = f"is not as {catalogue} says; without digests it cannot be told whether it was edited by hand"
        remedy = f"{remedy}; put {{{{ digests }}}} into the first lines of its template"
        return Problem(change.path, "stale", message, remedy, detail=_diff(change))
    is_older = digests is not None and digests.catalogue != wanted.catalogue
    if digests is None or digests.body != body_of(before):
        also = f", and {catalogue} has changed since as well" if is_older else ""
        remedy = f"say in {catalogue} what you mean, and {remedy}, which undoes the edit"
        return Problem(change.path, "edited-by-hand", f"was edited by hand{also}", remedy, detail=_diff(change))
    cause = catalogue if is_older else f"d9d-catalogue, a setting of the project or another part of {catalogue}"
    return Problem(change.path, "stale", f"{cause} has changed since this was generated", remedy, detail=_diff(change))


def _diff(change: Change) -> str:
    before, after = ((content or b"").decode(errors="replace") for content in (change.before, change.after))
    lines = unified_diff(
        before.splitlines(), after.splitlines(), f"{change.path} (on disk)", f"{change.path} (generated)", lineterm=""
    )
    return "\n".join(lines)
