"""Generated files on disk: how they differ from the catalogues, and writing all of them or none.

One record per project, `.d9d-catalogue.json`, lists every generated file and the catalogue that declares it. A file in
the record that no catalogue declares any more is obsolete and is removed, wherever it is. A file that is not in the
record, or that was edited by hand, is never removed.

The head of a generated file has two digests: one of the file itself without the line of the digests, by which an edit
is found, and one of the part of the catalogue that the file is about. An edit of one module leaves the files of the
others unchanged.
"""

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError

_SIZE: Final = 16  # hexadecimal digits: against accidents, not against malice
_PATTERN: Final = re.compile(rb"catalogue ([0-9a-f]{16}), body ([0-9a-f]{16})")
_NUM_HEAD_LINES: Final = 5
_UNKNOWN: Final = "0" * _SIZE
_STAGED: Final = ".d9d-new"
_INDEX: Final = "index.json"
_MAX_WAIT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Output:
    """A generated file.

    Attributes:
        path: Its path, relative to the project's root.
        text: Its text.
        keeps_existing: Whether a file with that name that the user wrote is left unchanged.
    """

    path: PurePosixPath
    text: str
    keeps_existing: bool = False


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests in the head of a file.

    Attributes:
        catalogue: The digest of what the file was generated from.
        body: The digest of the file as it was generated.
    """

    catalogue: str
    body: str


def unsealed(part: object) -> str:
    """Return the digests for the head of a file whose body is not yet known.

    Args:
        part: The part of the catalogue that the file is about; its `repr` has all of its data, without positions.
    """
    return f"catalogue {_digest(repr(part).encode())}, body {_UNKNOWN}"


def sealed(text: str) -> str:
    """Return a file with the digest of its body in its head."""
    return text.replace(f", body {_UNKNOWN}", f", body {body_of(text.encode())}", 1)


def digests_in(content: bytes) -> Digests | None:
    """Return the digests in the head of a file, if it has any."""
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
    return _PATTERN.search(b"\n".join(content.split(b"\n", _NUM_HEAD_LINES)[:_NUM_HEAD_LINES]))


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_SIZE]


@dataclass(frozen=True, slots=True)
class Record:
    """The generated files of a project.

    Attributes:
        path: The path of the record.
        text: Its text; None where there is no record yet.
        files: For each catalogue, by its path relative to the root, the files that it declares, relative to the root.
        digests: The digests of the files that have none in their head, by path.
    """

    path: Path
    text: bytes | None
    files: Mapping[str, frozenset[str]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> "Record":
        """Read the record of a project.

        Raises:
            DiagnosticError: It cannot be read.
        """
        path = root / ".d9d-catalogue.json"
        text = _read(path)
        if text is None:
            return cls(path, None)
        try:
            content = json.loads(text)
            files = {str(name): frozenset(map(_relative, paths)) for name, paths in content["files"].items()}
            return cls(path, text, files, {str(file): str(digest) for file, digest in content["digests"].items()})
        except (ValueError, TypeError, KeyError, AttributeError):
            message = "the list of generated files cannot be read"
            remedy = "resolve the merge conflict in it, keeping the files of both sides, and generate again"
            raise DiagnosticError([Diagnostic(path, "bad-record", message, remedy)]) from None

    @property
    def all_files(self) -> frozenset[str]:
        """Every file in the record."""
        return frozenset().union(*self.files.values())

    def updated(self, files: Mapping[str, Iterable[str]], digests: Mapping[str, str]) -> "Record":
        """Return the record with other files."""
        content = {
            "version": 1,
            "generated_by": "`d9d-catalogue generate`: the files that it wrote; do not edit",
            "files": {name: sorted(paths) for name, paths in sorted(files.items())},
            "digests": {name: digests[name] for name in sorted({*digests} & {*frozenset().union(*files.values())})},
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        return Record(self.path, text.encode(), {name: frozenset(paths) for name, paths in files.items()}, digests)


def _relative(path: object) -> str:
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(path)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(path)
    return path


@dataclass(frozen=True, slots=True)
class Change:
    """A file that differs from the catalogues.

    Attributes:
        path: The file.
        before: Its content; None where it is missing.
        after: The content that it should have; None where it should not exist.
        catalogue: The catalogue that declares it; None where no catalogue does.
        is_protected: Whether the file must not be touched, since the user wrote or edited it.
    """

    path: Path
    before: bytes | None
    after: bytes | None
    catalogue: Path | None = None
    is_protected: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the files of a project differ from its catalogues.

    Attributes:
        root: The project's root.
        changes: The files that differ, sorted by path.
        record: The record on disk.
        new_record: The record as it should be.
        num_files: The number of files that the catalogues declare.
    """

    root: Path
    changes: Sequence[Change]
    record: Record
    new_record: Record
    num_files: int


@dataclass(frozen=True, slots=True)
class Declared:
    """What one catalogue declares.

    Attributes:
        catalogue: The catalogue, as the user named it.
        name: Its path, relative to the project's root.
        notice: The sentence in the head of its files.
        outputs: Its files.
    """

    catalogue: Path
    name: str
    notice: str
    outputs: Sequence[Output]


def compare(root: Path, declared: Sequence[Declared], named: Collection[str]) -> Comparison:
    """Compare the files of a project with its catalogues.

    Args:
        root: The project's root.
        declared: What the catalogues declare that are compiled now.
        named: The catalogues that the project names, relative to the root. The files of others are obsolete; where it
            names none, those of catalogues that no longer exist.

    Raises:
        DiagnosticError: A file cannot be read, or is outside the project.
    """
    record = Record.read(root)
    wanted = {str(output.path) for each in declared for output in each.outputs}
    kept = {
        name: files
        for name, files in record.files.items()
        if (name in named if named else os.path.isfile(root / name))  # noqa: PTH113 -- Path raises where it is too long
    }
    changes: list[Change] = []
    digests, recorded = dict(record.digests), record.all_files
    for each in declared:
        own: set[str] = set()
        for output in each.outputs:
            path, after = root / output.path, output.text.encode()
            _refuse_outside(root, path)
            before = _read(path)
            is_recorded = str(output.path) in recorded and not output.keeps_existing
            is_own = before is None or not before.strip() or is_recorded or _is_generated(before, each.notice)
            if is_own:
                own.add(str(output.path))
                digests.pop(str(output.path), None)
                if digests_in(after) is None:
                    digests[str(output.path)] = _digest(after)
            if before != after and (is_own or not output.keeps_existing):
                changes.append(Change(path, before, after, each.catalogue, is_protected=not is_own))
        kept[each.name] = frozenset(own)
    known = recorded if record.text is not None else _unrecorded(root, declared)
    obsolete = sorted(known - wanted - frozenset().union(*kept.values()))
    changes += [change for name in obsolete if (change := _obsolete(root, name, record)) is not None]
    changes += _leftovers(root, {root / name for name in {*wanted, *known}})
    changes.sort(key=lambda change: change.path)
    return Comparison(root, changes, record, record.updated(kept, digests), len(wanted))


def _obsolete(root: Path, name: str, record: Record) -> Change | None:
    """Return the removal of a file that no catalogue declares any more; None where it is already gone."""
    path = root / name
    content = _read(path) if path.is_file() and _is_within(root, path) else None
    return None if content is None else Change(path, content, None, is_protected=not _is_intact(name, content, record))


def _is_intact(name: str, content: bytes, record: Record) -> bool:
    """Return whether a file is exactly as it was generated."""
    digests = digests_in(content)
    return digests.body == body_of(content) if digests else record.digests.get(name) == _digest(content)


def _unrecorded(root: Path, declared: Sequence[Declared]) -> frozenset[str]:
    """Return the generated files next to the declared ones, for a project that has no record yet."""
    found = set()
    for each in declared:
        for folder in {output.path.parent for output in each.outputs}:
            for file in (root / folder).glob("*"):
                if file.suffix in (".py", ".md") and file.is_file():
                    content = _read(file) or b""
                    if _is_generated(content, each.notice) and digests_in(content):
                        found.add(str(folder / file.name))
    return frozenset(found)


def _leftovers(root: Path, files: Iterable[Path]) -> Iterator[Change]:
    """Yield the staged files of runs that were killed: nobody else writes any while this run holds the lock."""
    for folder in sorted({root, *(file.parent for file in files)}):
        for file in sorted(folder.glob(f".*{_STAGED}")):
            if file.is_file() and not file.is_symlink():
                yield Change(file, _read(file), None)


def _is_generated(content: bytes, notice: str) -> bool:
    return notice.encode() in b"\n".join(content.split(b"\n", _NUM_HEAD_LINES)[:_NUM_HEAD_LINES])


def _is_within(root: Path, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _refuse_outside(root: Path, path: Path) -> None:
    if os.path.islink(path) or not _is_within(root, path.parent):  # noqa: PTH114 -- Path raises where it is too long
        message = "the path is a symbolic link, or leads out of the project through one"
        raise DiagnosticError([Diagnostic(path, "outside-project", message, "replace the link with a file or folder")])


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise _unwritable(path, "a folder is in the way") from None
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


@contextmanager
def locked(root: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock of a project: one run may write, or any number may read.

    The lock is on the root folder itself, so that it leaves no file behind, and ends with the process.

    Raises:
        DiagnosticError: Another run holds the lock for too long.
    """
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # there is no such folder, and no catalogue in it, which is reported when it is read
        yield
        return
    try:
        _wait_for_lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, root)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, mode: int, root: Path) -> None:
    end = time.monotonic() + _MAX_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                message = f"another d9d-catalogue has worked on this project for {_MAX_WAIT_SECONDS:.0f} s"
                raise DiagnosticError([Diagnostic(root, "locked", message, "wait for it, or end it")]) from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            if error.errno in _NO_LOCKS:  # some network file systems have none; a single run works there all the same
                return
            message = f"the folder cannot be locked: {error.strerror}"
            raise DiagnosticError([Diagnostic(root, "locked", message, "check its permissions")]) from None
        else:
            return


def apply(comparison: Comparison) -> None:
    """Write and remove files so that they match the catalogues; the caller holds the exclusive lock.

    Every new text is first staged next to its file, under a name that only this run uses. While files are replaced the
    record lists the old files and the new ones, so that the next run can finish what a killed one began.

    Raises:
        DiagnosticError: A file could not be written; every file that this run had changed is restored.
    """
    changes = sorted(comparison.changes, key=lambda change: change.path.name == _INDEX)
    record, new_record = comparison.record, comparison.new_record
    both = record.updated(_united(record.files, new_record.files), {**record.digests, **new_record.digests})
    token = f"{os.getpid()}-{os.urandom(4).hex()}"
    writer = _Writer(token)
    try:
        for change in changes:
            writer.stage(change.path, change.after)
        if changes and both.text != record.text:
            writer.write(Change(record.path, record.text, both.text))
        for change in changes:
            writer.replace(change)
        on_disk = both if changes else record
        if new_record.text != on_disk.text:
            writer.write(Change(record.path, on_disk.text, new_record.text))
    except BaseException as error:
        writer.undo()
        if isinstance(error, OSError):
            raise _unwritable(Path(error.filename or "."), error.strerror or str(error)) from error
        raise
    for change in changes:
        if change.after is None:
            _remove_empty(change.path.parent, comparison.root)


class _Writer:
    """Replaces files one by one, and can undo that."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._staged: list[Path] = []
        self._folders: list[Path] = []
        self._done: list[Change] = []

    def stage(self, path: Path, content: bytes | None) -> None:
        """Write the new content of a file next to it."""
        if content is None:
            return
        self._folders += [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._staged.append(self._name(path))
        self._name(path).write_bytes(content)

    def replace(self, change: Change) -> None:
        """Put the staged content in place, or remove the file."""
        if change.after is None:
            change.path.unlink(missing_ok=True)
        else:
            self._name(change.path).replace(change.path)
            self._staged.remove(self._name(change.path))
        self._done.append(change)

    def write(self, change: Change) -> None:
        """Stage a file and put it in place."""
        self.stage(change.path, change.after)
        self.replace(change)

    def undo(self) -> None:
        """Restore what this run has changed, unless somebody else has changed it since, and remove what it staged."""
        for change in reversed(self._done):
            with suppress(OSError, DiagnosticError):
                if _read(change.path) != change.after:
                    continue
                if change.before is None:
                    change.path.unlink()
                else:
                    change.path.write_bytes(change.before)
        for path in self._staged:
            with suppress(OSError):
                path.unlink()
        for folder in self._folders:
            with suppress(OSError):
                folder.rmdir()

    def _name(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.{self._token}{_STAGED}")


def _united(one: Mapping[str, frozenset[str]], other: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    return {name: one.get(name, frozenset()) | other.get(name, frozenset()) for name in {*one, *other}}


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder from which the last file was removed, and those above it, as far as they are empty."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _unwritable(path: Path, reason: str) -> DiagnosticError:
    message, remedy = f"the file cannot be written: {reason}", "no file was changed; fix this and generate again"
    return DiagnosticError([Diagnostic(path, "unwritable", message, remedy)])


def protected(comparison: Comparison) -> list[Diagnostic]:
    """Return a diagnostic for each file that stands in the way, or should go, and must not be touched."""
    return [_protected(change) for change in comparison.changes if change.is_protected]


def drift(comparison: Comparison) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each file that differs from the catalogues."""
    for change in comparison.changes:
        catalogue = change.catalogue
        option = "" if catalogue in (None, Path("catalogue.yaml")) else f" --catalogue {catalogue}"
        remedy = f"run `d9d-catalogue generate{option}`"
        if change.is_protected:
            yield _protected(change)
        elif change.before is None:
            name = catalogue.name if catalogue else ""
            yield Diagnostic(change.path, "missing", f"{name} declares this file, and it does not exist", remedy)
        elif change.after is None or catalogue is None:
            yield Diagnostic(change.path, "orphaned", "no catalogue declares this generated file any more", remedy)
        else:
            yield _outdated(change, change.before, change.after, catalogue.name, remedy)
    record, new_record = comparison.record, comparison.new_record
    if not comparison.changes and record.text != new_record.text:
        what = "is missing" if record.text is None else "is out of date"
        message = f"the list of generated files {what}"
        yield Diagnostic(record.path, "stale", message, "run `d9d-catalogue generate`, and commit the list")


def _protected(change: Change) -> Diagnostic:
    if change.after is None:
        message = "no catalogue declares this generated file any more, and it was edited by hand"
        return Diagnostic(change.path, "edited-by-hand", message, "keep your edit elsewhere, and delete the file")
    message = "a file that was not generated is in the way"
    return Diagnostic(change.path, "not-generated", message, "move it away, or rename the module")


def _outdated(change: Change, before: bytes, after: bytes, catalogue: str, remedy: str) -> Diagnostic:
    """Return the diagnostic of a file that differs because the file, the catalogue, or both have changed."""
    digests, wanted = digests_in(before), digests_in(after)
    if wanted is None:
        message = f"differs from {catalogue}; without digests an edit by hand cannot be recognised"
        remedy = f"{remedy}; put {{{{ digests }}}} into the first lines of its template"
        return Diagnostic(change.path, "stale", message, remedy, detail=_diff(change))
    is_older = digests is not None and digests.catalogue != wanted.catalogue
    if digests is None or digests.body != body_of(before):
        also = f", and {catalogue} has changed since as well" if is_older else ""
        remedy = f"make the change in {catalogue}, and {remedy}, which undoes the edit"
        return Diagnostic(change.path, "edited-by-hand", f"was edited by hand{also}", remedy, detail=_diff(change))
    cause = catalogue if is_older else f"d9d-catalogue, a setting of the project or another part of {catalogue}"
    message = f"{cause} has changed since this file was generated"
    return Diagnostic(change.path, "stale", message, remedy, detail=_diff(change))


def _diff(change: Change) -> str:
    before, after = ((content or b"").decode(errors="replace") for content in (change.before, change.after))
    lines = unified_diff(
        before.splitlines(), after.splitlines(), f"{change.path} (on disk)", f"{change.path} (generated)", lineterm=""
    )
    return "\n".join(lines)
