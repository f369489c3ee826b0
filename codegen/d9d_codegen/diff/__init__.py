"""The command `diff`: what changed between two versions of the catalogues of a project, and whom each change breaks."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from d9d_codegen.catalogue import Catalogue, load
from d9d_codegen.diagnostic import FORMATS, Diagnostic, DiagnosticError, Diagnostics, Source
from d9d_codegen.diff.change import Change, Effect
from d9d_codegen.diff.compare import compare_all
from d9d_codegen.project import catalogues_in, find_project
from d9d_codegen.read import read

_COMPATIBLE, _BREAKING, _WRONG_USE = 0, 1, 2


class UnknownVersionError(DiagnosticError):
    """A name is neither a file nor a git revision that contains a catalogue."""


def diff(old: str, new: str | None, catalogues: Sequence[Path], form: str) -> tuple[int, str]:
    """Compare two versions of the catalogues of a project.

    Args:
        old: A file; `REV` for all catalogues of the project at a revision of git; or `REV:path` for a file at one.
        new: The same; None for all catalogues of the project as they are on disk.
        catalogues: The catalogues of the project.
        form: How to print the changes: a key of `FORMATS`.

    Returns:
        The exit status, and the text to print.

    Raises:
        DiagnosticError: A version is not a catalogue.
    """
    try:
        before, after = _versions(old, new, catalogues), _versions(new, old, catalogues)
    except UnknownVersionError as error:
        return _WRONG_USE, FORMATS[form](error.diagnostics)
    changes = compare_all(before, after)
    status = _BREAKING if any(change.severity == "error" for change in changes) else _COMPATIBLE
    if form == "json":
        return status, json.dumps([change.as_object() for change in changes], indent=2, ensure_ascii=False) + "\n"
    text = FORMATS[form](change.as_diagnostic() for change in changes)
    return status, text + (_summary(changes) if form == "text" else "")


def _versions(name: str | None, other: str | None, catalogues: Sequence[Path]) -> list[Catalogue]:
    """Read the catalogues that one side of the comparison means; a revision alone means those of the other side.

    Only their schema is checked: an old version need not follow the rules of today.
    """
    if name is None:
        return [_loaded(read(path)) for path in catalogues]
    if _is_file(name):
        return [_loaded(read(Path(name)))]
    revision, colon, path = name.partition(":")
    if colon:
        return [_loaded(_at_revision(name, revision, path, Path()))]
    if other is not None and (_is_file(other) or ":" in other):
        return [_loaded(_at_revision(name, revision, *_next_to(_meant_by(other, catalogues))))]
    return _all_at(revision, catalogues)


def _meant_by(other: str, catalogues: Sequence[Path]) -> Path:
    """Return the catalogue of the project that the other side names, or the first one."""
    path = os.path.abspath(other.rpartition(":")[2])  # noqa: PTH100 -- links are not followed
    return next((each for each in catalogues if os.path.abspath(each) == path), catalogues[0])  # noqa: PTH100


def _all_at(revision: str, catalogues: Sequence[Path]) -> list[Catalogue]:
    """Read all catalogues that the project has at a revision: those that its settings there name."""
    project = find_project(catalogues[0])
    named: list[Path] = []
    if {*catalogues} == {*project.catalogues}:  # not one that the user has picked
        try:
            settings = _at_revision(revision, revision, "./pyproject.toml", project.root).text
        except UnknownVersionError:
            settings = ""
        named = [project.root / path for path in catalogues_in(settings)]
    found, missing = [], None
    for path in named or catalogues:
        try:
            source = _at_revision(revision, revision, *_next_to(path))
        except UnknownVersionError as error:
            missing = missing or error
        else:
            found.append(_loaded(source))
    if missing and not found:
        raise missing
    return found


def _next_to(path: Path) -> tuple[str, Path]:
    return f"./{path.name}", path.parent


def _is_file(name: str) -> bool:
    return os.path.isfile(name)  # noqa: PTH113 -- Path raises where a name is too long for a file


def _loaded(source: Source) -> Catalogue:
    diagnostics = Diagnostics(source)
    found = load(source, diagnostics)
    if found is None or diagnostics:
        raise DiagnosticError(diagnostics.in_file_order())
    return found


def _at_revision(name: str, revision: str, path: str, folder: Path) -> Source:
    """Read a file at a revision, without a checkout.

    Args:
        name: What the user named.
        revision: The revision of git.
        path: The file, relative to the root of the repository, or to the folder if it begins with `./`.
        folder: The folder that git runs in.
    """
    if not revision or revision.startswith("-"):
        raise _unknown(name, "it is not a file")
    command = ["git", "show", "--no-textconv", "--no-ext-diff", f"{revision}:{path}"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603 -- no shell
    except (OSError, ValueError) as error:
        raise _unknown(name, f"it is not a file, and git failed: {error}") from None
    if result.returncode:
        reason = " ".join(result.stderr.decode(errors="replace").split()).removeprefix("fatal: ")
        raise _unknown(name, f"it is not a file, and git says: {reason}")
    shown = f"{revision}:{folder / path if path.startswith('./') else path}"
    try:
        return Source(Path(shown), result.stdout.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _unknown(name, "the file at that revision is not UTF-8") from None


def _unknown(name: str, reason: str) -> UnknownVersionError:
    remedy = "name two files, or two revisions of git: REV, or REV:path/to/catalogue.yaml"
    return UnknownVersionError([Diagnostic(Path(name), "unknown-revision", reason, remedy)])


def _summary(changes: list[Change]) -> str:
    """Return the number of changes of each class, in a sentence."""
    counts = {effect: sum(change.effect is effect for change in changes) for effect in Effect}
    given = ", ".join(f"{count} {effect.value}" for effect, count in counts.items() if count)
    return f"{len(changes)} change{'s' * (len(changes) != 1)}: {given}\n" if changes else "no changes\n"
