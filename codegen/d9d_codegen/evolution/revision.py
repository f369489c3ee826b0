"""The two editions that are compared: files, or revisions of git, read without a checkout."""

import os
import subprocess
from pathlib import Path

from d9d_codegen.load import load, read
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Problem, Problems, RefusedError
from d9d_codegen.source import Source


class UnknownEditionError(RefusedError):
    """What was named is neither a file nor a revision of git that holds a catalogue."""


def edition(name: str, catalogue: Path) -> Catalogue:
    """Read one edition of a catalogue.

    It is held against the shape of a catalogue and no further: an old edition need not live up to the rules of today.

    Args:
        name: A file, `REV` for the catalogue at a revision, or `REV:path` for a file at one.
        catalogue: The catalogue that `REV` means.

    Raises:
        UnknownEditionError: There is no such file and no such revision.
        RefusedError: What there is cannot be read as a catalogue.
    """
    is_file = os.path.isfile(name)  # noqa: PTH113 -- a name may be too long for a file, which a Path would raise
    source = read(Path(name)) if is_file else _at_revision(name, catalogue)
    problems = Problems(source)
    found = load(source, problems)
    if found is None or problems:
        raise RefusedError(problems.in_file_order())
    return found


def _at_revision(name: str, catalogue: Path) -> Source:
    revision, colon, path = name.partition(":")
    where = path if colon else f"./{catalogue.name}"
    folder = Path() if colon else catalogue.parent
    shown = Path(f"{revision}:{path if colon else catalogue}")
    if not revision or revision.startswith("-"):
        raise _unknown(name, "it is no file")
    command = ["git", "show", "--no-textconv", "--no-ext-diff", f"{revision}:{where}"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603 -- no shell
    except (OSError, ValueError) as error:
        raise _unknown(name, f"it is no file, and git cannot be asked: {error}") from None
    if result.returncode:
        reason = " ".join(result.stderr.decode(errors="replace").split()).removeprefix("fatal: ")
        raise _unknown(name, f"it is no file, and git says: {reason}")
    try:
        return Source(shown, result.stdout.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _unknown(name, "the file at that revision is not UTF-8") from None


def _unknown(name: str, reason: str) -> UnknownEditionError:
    remedy = "name two files, or two revisions of git: REV, or REV:path/to/catalogue.yaml"
    return UnknownEditionError([Problem(Path(name), "unknown-edition", reason, remedy)])
