"""Generated files on disk: what differs from what should be there, and the mending of it, all or nothing."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from d9d_codegen.artefact import Artefact
from d9d_codegen.problem import Problem, RefusedError

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


def compare(root: Path, artefacts: list[Artefact], head: str) -> list[Change]:
    """Return what has to change on disk, in the order of the paths.

    Args:
        root: The folder that the artefacts' paths are relative to.
        artefacts: Every file that should be there.
        head: The sentence by which a generated file is known.

    Raises:
        RefusedError: A file that should be compared cannot be read.
    """
    wanted = {artefact.path: artefact for artefact in artefacts}
    listed = _listed(root, artefacts)
    found = []
    for path, artefact in wanted.items():
        before, after = _read(root / path), artefact.text.encode()
        if before == after:
            continue
        is_own = before is None or not before.strip() or path in listed or _is_generated(before, head)
        if is_own or not artefact.gives_way:
            found.append(Change(root / path, before, after, is_foreign=not is_own))
    found += [Change(root / path, _read(root / path), None) for path in _orphans(root, wanted, listed, head)]
    return sorted(found, key=lambda change: change.path)


def apply(changes: Iterable[Change]) -> None:
    """Make the files as they should be.

    Every new text is first written beside its file; only then are the files replaced, one after the other. The index
    comes last: until then the old one says what was generated before, so that a run that is killed can be made good.

    Raises:
        RefusedError: A file could not be written; those that already were are as before again.
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


def _listed(root: Path, artefacts: list[Artefact]) -> set[PurePosixPath]:
    """Return the files that the index on disk says were generated, and the index itself."""
    index = next(artefact for artefact in artefacts if artefact.path.name == _INDEX)
    content = _read(root / index.path) or b""
    if content == index.text.encode():  # a large one takes long to read, and says nothing new
        return {artefact.path for artefact in artefacts if not artefact.gives_way}
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


def _unwritable(path: Path, reason: str) -> RefusedError:
    message = f"the file cannot be written: {reason}"
    return RefusedError([Problem(path, "unwritable", message, "no file was changed; mend this and generate again")])
