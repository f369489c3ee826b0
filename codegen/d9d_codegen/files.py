"""Files."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError


@dataclass(frozen=True, slots=True)
class Output:
    """A generated file.

    Attributes:
        path: Where it lies, relative to the project's root.
        text: What it holds.
        keeps_existing: Whether a file of that name that somebody wrote by hand is left in peace.
    """

    path: PurePosixPath
    text: str
    keeps_existing: bool = False


_SIZE: Final = 16  # hexadecimal digits: against accidents, not against malice
_PATTERN: Final = re.compile(rb"catalogue ([0-9a-f]{16}), body ([0-9a-f]{16})")
_NUM_HEAD_LINES: Final = 5
_UNKNOWN: Final = "0" * _SIZE


@dataclass(frozen=True, slots=True)
class Digests:
    """What the head of a file says of its origin.

    Attributes:
        catalogue: The digest of what the file was generated from.
        body: The digest of the file as it was generated.
    """

    catalogue: str
    body: str


def unsealed(part: object) -> str:
    """Return the digests for the head of a file whose body is not yet known.

    Args:
        part: The part of the catalogue that the file is about; its `repr` says all that it holds, without positions.
    """
    return f"catalogue {_digest(repr(part).encode())}, body {_UNKNOWN}"


def sealed(text: str) -> str:
    """Return a file with the digest of its body in its head."""
    return text.replace(f", body {_UNKNOWN}", f", body {body_of(text.encode())}", 1)


def digests_in(content: bytes) -> Digests | None:
    """Return the digests in the head of a file, if they are there."""
    match = _find(content)
    return Digests(match[1].decode(), match[2].decode()) if match else None


def body_of(content: bytes) -> str:
    """Return the digest of the body of a file."""
    match = _find(content)
    if not match:
        return _digest(content)
    start, end = content.rfind(b"\n", 0, match.start()) + 1, content.find(b"\n", match.end())
    return _digest(content[:start] + content[end:])


def _find(content: bytes) -> re.Match[bytes] | None:
    head = b"\n".join(content.split(b"\n", _NUM_HEAD_LINES)[:_NUM_HEAD_LINES])
    return _PATTERN.search(head)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_SIZE]


_STAGED: Final = ".d9d-new"
_INDEX: Final = "index.json"


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not as it should be.

    Attributes:
        path: The file.
        before: What it holds; nothing where it is missing.
        after: What it should hold; nothing where it should not be there.
        is_foreign: Whether the file was not generated, and must not be touched.
    """

    path: Path
    before: bytes | None
    after: bytes | None
    is_foreign: bool = False


def compare(root: Path, outputs: list[Output], head: str) -> list[Change]:
    """Return what has to change on disk, in the order of the paths.

    Args:
        root: The folder that the outputs' paths are relative to.
        outputs: Every file that should be there.
        head: The sentence by which a generated file is known.

    Raises:
        DiagnosticError: A file that should be compared cannot be read.
    """
    wanted = {output.path: output for output in outputs}
    listed = _listed(root, outputs)
    found = []
    for path, output in wanted.items():
        before, after = _read(root / path), output.text.encode()
        if before == after:
            continue
        is_own = before is None or not before.strip() or path in listed or _is_generated(before, head)
        if is_own or not output.keeps_existing:
            found.append(Change(root / path, before, after, is_foreign=not is_own))
    found += [Change(root / path, _read(root / path), None) for path in _orphans(root, wanted, listed, head)]
    return sorted(found, key=lambda change: change.path)


def apply(changes: Iterable[Change]) -> None:
    """Make the files as they should be.

    Every new text is first written beside its file; only then are the files replaced, one after the other. The index
    comes last: until then the old one says what was generated before, so that a run that is killed can be made good.

    Raises:
        DiagnosticError: A file could not be written; those that already were are as before again.
    """
    changes = sorted(changes, key=lambda change: change.path.name == _INDEX)
    staged = {_staged(change.path) for change in changes if change.after is not None}
    changes = [change for change in changes if change.path not in staged]  # left behind, and about to be written anew
    folders: list[Path] = []
    done: list[Change] = []
    try:
        for change in changes:
            folders += _missing_folders(change.path)
            change.path.parent.mkdir(parents=True, exist_ok=True)
            if change.after is not None:
                _staged(change.path).write_bytes(change.after)
        for change in changes:
            _replace(change)
            done.append(change)
    except BaseException as error:
        _undo(changes, done, folders)
        if isinstance(error, OSError):
            raise _unwritable(Path(error.filename or "."), error.strerror or str(error)) from error
        raise


def _listed(root: Path, outputs: list[Output]) -> set[PurePosixPath]:
    """Return the files that the index on disk says were generated, and the index itself."""
    index = next(output for output in outputs if output.path.name == _INDEX)
    content = _read(root / index.path) or b""
    if content == index.text.encode():  # a large one takes long to read, and says nothing new
        return {output.path for output in outputs if not output.keeps_existing}
    files: object = []
    with suppress(ValueError, TypeError, KeyError):
        files = json.loads(content)["files"]
    paths = (
        {PurePosixPath(file) for file in files if isinstance(file, str) and "\0" not in file}
        if isinstance(files, list)
        else set()
    )
    return {index.path, *(path for path in paths if not path.is_absolute() and ".." not in path.parts)}


def _orphans(
    root: Path, wanted: Iterable[PurePosixPath], listed: set[PurePosixPath], head: str
) -> Iterator[PurePosixPath]:
    """Yield files that were generated, or left behind by a run that was killed, and that nothing asks for."""
    wanted = set(wanted)
    for folder in sorted({path.parent for path in {*wanted, *listed}}):
        for file in sorted((root / folder).glob("*")):
            if folder / file.name in wanted or not file.is_file():
                continue
            is_staged = file.name.startswith(".") and file.name.endswith(_STAGED)
            is_known = file.suffix in (".py", ".md") or folder / file.name in listed
            if is_staged or (is_known and _is_generated(_read(file) or b"", head)):
                yield folder / file.name


def _is_generated(content: bytes, head: str) -> bool:
    return head.encode() in content.partition(b"\n")[0]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise _unwritable(path, "a folder is in the way") from None
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}{_STAGED}")


def _missing_folders(path: Path) -> list[Path]:
    return [folder for folder in path.parents if not folder.exists()]


def _replace(change: Change) -> None:
    if change.after is None:
        change.path.unlink()
    else:
        _staged(change.path).replace(change.path)


def _undo(changes: list[Change], done: list[Change], folders: list[Path]) -> None:
    for change in done:
        with suppress(OSError):
            if change.before is None:
                change.path.unlink()
            else:
                change.path.write_bytes(change.before)
    for change in changes:
        with suppress(OSError):
            _staged(change.path).unlink()
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _unwritable(path: Path, reason: str) -> DiagnosticError:
    message = f"the file cannot be written: {reason}"
    return DiagnosticError(
        [Diagnostic(path, "unwritable", message, "no file was changed; mend this and generate again")]
    )


def drift(changes: Iterable[Change], catalogue: Path) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each file that is not as a catalogue says.

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
            yield Diagnostic(change.path, "missing", f"{catalogue.name} says that there is such a file", remedy)
        elif change.after is None:
            yield Diagnostic(change.path, "orphaned", f"{catalogue.name} says nothing of this file any more", remedy)
        else:
            yield _outdated(change, change.before, change.after, catalogue.name, remedy)


def foreign(change: Change) -> Diagnostic:
    """Return the diagnostic that a file somebody wrote stands where a generated one should."""
    message = "a file stands here that was not generated"
    return Diagnostic(change.path, "not-generated", message, "move it away, or give the module another name")


def _outdated(change: Change, before: bytes, after: bytes, catalogue: str, remedy: str) -> Diagnostic:
    """Return the diagnostic of a file that differs, with who changed: the file, the catalogue, or both."""
    digests, wanted = digests_in(before), digests_in(after)
    if wanted is None:
        message = f"is not as {catalogue} says; without digests it cannot be told whether it was edited by hand"
        remedy = f"{remedy}; put {{{{ digests }}}} into the first lines of its template"
        return Diagnostic(change.path, "stale", message, remedy, detail=_diff(change))
    is_older = digests is not None and digests.catalogue != wanted.catalogue
    if digests is None or digests.body != body_of(before):
        also = f", and {catalogue} has changed since as well" if is_older else ""
        remedy = f"say in {catalogue} what you mean, and {remedy}, which undoes the edit"
        return Diagnostic(change.path, "edited-by-hand", f"was edited by hand{also}", remedy, detail=_diff(change))
    cause = catalogue if is_older else f"d9d-catalogue, a setting of the project or another part of {catalogue}"
    return Diagnostic(
        change.path, "stale", f"{cause} has changed since this was generated", remedy, detail=_diff(change)
    )


def _diff(change: Change) -> str:
    before, after = ((content or b"").decode(errors="replace") for content in (change.before, change.after))
    lines = unified_diff(
        before.splitlines(), after.splitlines(), f"{change.path} (on disk)", f"{change.path} (generated)", lineterm=""
    )
    return "\n".join(lines)
