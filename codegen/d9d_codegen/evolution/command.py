"""The command `diff`."""

import json
from pathlib import Path

from d9d_codegen.evolution.change import Change, Effect
from d9d_codegen.evolution.comparison import compare
from d9d_codegen.evolution.revision import UnknownEditionError, edition
from d9d_codegen.report import FORMATS

COMPATIBLE, BREAKING, WRONG_USE = 0, 1, 2


def diff(old: str, new: str, catalogue: Path, form: str) -> tuple[int, str]:
    """Compare two editions of a catalogue.

    Args:
        old: A file, `REV` or `REV:path`.
        new: The same.
        catalogue: What `REV` alone means.
        form: How to print the changes: a key of `FORMATS`.

    Returns:
        The exit status, and what to print.

    Raises:
        RefusedError: An edition is no catalogue.
    """
    try:
        changes = compare(edition(old, catalogue), edition(new, catalogue))
    except UnknownEditionError as error:
        return WRONG_USE, FORMATS[form](error.problems)
    status = BREAKING if any(change.severity == "error" for change in changes) else COMPATIBLE
    if form == "json":
        return status, json.dumps([change.as_object() for change in changes], indent=2, ensure_ascii=False) + "\n"
    told = FORMATS[form](change.as_problem() for change in changes)
    return status, told + (_summary(changes) if form == "text" else "")


def _summary(changes: list[Change]) -> str:
    """Return how many changes there are of each class, in a sentence."""
    counts = {effect: sum(change.effect is effect for change in changes) for effect in Effect}
    given = ", ".join(f"{count} {effect.value}" for effect, count in counts.items() if count)
    return f"{len(changes)} change{'s' * (len(changes) != 1)}: {given}\n" if changes else "no changes\n"
