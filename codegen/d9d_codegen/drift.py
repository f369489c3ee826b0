"""How the files on disk differ from what a catalogue says, as problems."""

from collections.abc import Iterable, Iterator
from difflib import unified_diff
from pathlib import Path

from d9d_codegen.problem import Problem
from d9d_codegen.write import Change


def drift(changes: Iterable[Change], catalogue: Path) -> Iterator[Problem]:
    """Yields a problem for each file that is not as a catalogue says.

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
            message = f"differs from what {catalogue.name} says"
            yield Problem(change.path, "out-of-date", message, remedy, detail=_diff(change))


def foreign(change: Change) -> Problem:
    """Returns the problem that a file somebody wrote stands where a generated one should."""
    message = "a file stands here that was not generated"
    return Problem(change.path, "not-generated", message, "move it away, or give the module another name")


def _diff(change: Change) -> str:
    before, after = ((content or b"").decode(errors="replace") for content in (change.before, change.after))
    lines = unified_diff(
        before.splitlines(), after.splitlines(), f"{change.path} (on disk)", f"{change.path} (generated)", lineterm=""
    )
    return "\n".join(lines)
