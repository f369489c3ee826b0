"""The command `diff`: what changed between two versions of a catalogue, and whom each change breaks."""

import json
import os
import subprocess
from pathlib import Path

from d9d_codegen.catalogue import Catalogue, load
from d9d_codegen.diagnostic import FORMATS, Diagnostic, DiagnosticError, Diagnostics, Source
from d9d_codegen.diff.change import Change, Effect
from d9d_codegen.diff.compare import compare
from d9d_codegen.read import read


class UnknownVersionError(DiagnosticError):
    """A name is neither a file nor a git revision that contains a catalogue."""


def version(name: str, catalogue: Path) -> Catalogue:
    """Read one version of a catalogue.

    Only its schema is checked: an old version need not follow the rules of today.

    Args:
        name: A file, `REV` for the catalogue at a revision, or `REV:path` for a file at a revision.
        catalogue: The catalogue that `REV` means.

    Raises:
        UnknownVersionError: There is no such file and no such revision.
        DiagnosticError: The text cannot be read as a catalogue.
    """
    is_file = os.path.isfile(name)  # noqa: PTH113 -- Path raises where a name is too long for a file
    source = read(Path(name)) if is_file else _at_revision(name, catalogue)
    diagnostics = Diagnostics(source)
    found = load(source, diagnostics)
    if found is None or diagnostics:
        raise DiagnosticError(diagnostics.in_file_order())
    return found


def _at_revision(name: str, catalogue: Path) -> Source:
    revision, colon, path = name.partition(":")
    where = path if colon else f"./{catalogue.name}"
    folder = Path() if colon else catalogue.parent
    shown = Path(f"{revision}:{path if colon else catalogue}")
    if not revision or revision.startswith("-"):
        raise _unknown(name, "it is not a file")
    command = ["git", "show", "--no-textconv", "--no-ext-diff", f"{revision}:{where}"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603 -- no shell
    except (OSError, ValueError) as error:
        raise _unknown(name, f"it is not a file, and git failed: {error}") from None
    if result.returncode:
        reason = " ".join(result.stderr.decode(errors="replace").split()).removeprefix("fatal: ")
        raise _unknown(name, f"it is not a file, and git says: {reason}")
    try:
        return Source(shown, result.stdout.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _unknown(name, "the file at that revision is not UTF-8") from None


def _unknown(name: str, reason: str) -> UnknownVersionError:
    remedy = "name two files, or two revisions of git: REV, or REV:path/to/catalogue.yaml"
    return UnknownVersionError([Diagnostic(Path(name), "unknown-revision", reason, remedy)])


COMPATIBLE, BREAKING, WRONG_USE = 0, 1, 2


def diff(old: str, new: str, catalogue: Path, form: str) -> tuple[int, str]:
    """Compare two versions of a catalogue.

    Args:
        old: A file, `REV` or `REV:path`.
        new: The same.
        catalogue: The catalogue that `REV` alone means.
        form: How to print the changes: a key of `FORMATS`.

    Returns:
        The exit status, and the text to print.

    Raises:
        DiagnosticError: A version is not a catalogue.
    """
    try:
        changes = compare(version(old, catalogue), version(new, catalogue))
    except UnknownVersionError as error:
        return WRONG_USE, FORMATS[form](error.diagnostics)
    status = BREAKING if any(change.severity == "error" for change in changes) else COMPATIBLE
    if form == "json":
        return status, json.dumps([change.as_object() for change in changes], indent=2, ensure_ascii=False) + "\n"
    text = FORMATS[form](change.as_diagnostic() for change in changes)
    return status, text + (_summary(changes) if form == "text" else "")


def _summary(changes: list[Change]) -> str:
    """Return the number of changes of each class, in a sentence."""
    counts = {effect: sum(change.effect is effect for change in changes) for effect in Effect}
    given = ", ".join(f"{count} {effect.value}" for effect, count in counts.items() if count)
    return f"{len(changes)} change{'s' * (len(changes) != 1)}: {given}\n" if changes else "no changes\n"
