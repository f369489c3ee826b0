"""Where a module lies: its source, its stub, or only the fact that it is there."""

import os
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final, NamedTuple

SOURCES: Final = (".pyi", ".py")
_INITS: Final = tuple(f"{os.sep}__init__{suffix}" for suffix in SOURCES)


class Found(NamedTuple):
    """A module that can be imported.

    Attributes:
        folders: Where its submodules lie, if it is a package.
        file: Its source or stub, if it has one.
        is_opaque: Whether its names cannot be seen from outside.
    """

    folders: tuple[str, ...] = ()
    file: str | None = None
    is_opaque: bool = False


def find_in(name: str, folders: Iterable[str], *, is_stub: bool = False) -> Found | None:
    """Look for a module in folders, as Python would, but for stubs, which come first."""
    spaces: list[str] = []
    for folder in folders:
        base = folder if is_stub else f"{folder}{os.sep}{name}"
        if os.path.isdir(base):  # noqa: PTH112 -- paths of text are several times as quick
            for init in _INITS:
                if os.path.isfile(base + init):  # noqa: PTH113 -- the same
                    return Found((base,), base + init)
            if any(os.path.isfile(f"{base}{os.sep}__init__{suffix}") for suffix in EXTENSION_SUFFIXES):  # noqa: PTH113
                return Found((base,), is_opaque=True)
            spaces.append(base)
        for suffix in () if is_stub else SOURCES:
            if os.path.isfile(base + suffix):  # noqa: PTH113 -- the same
                return Found((), base + suffix)
        if any(os.path.isfile(base + suffix) for suffix in (*EXTENSION_SUFFIXES, ".pyc")):  # noqa: PTH113 -- the same
            return Found(is_opaque=True)
    return Found(tuple(spaces)) if spaces else None


def find_through_hooks(name: str) -> Found | None:
    """Ask the import hooks of this Python, say of an editable installation, for a module at the top."""
    from importlib.util import find_spec  # noqa: PLC0415 -- rarely needed

    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    folders = tuple(spec.submodule_search_locations or ())
    is_source = spec.origin is not None and spec.origin.endswith(SOURCES) and os.path.isfile(spec.origin)  # noqa: PTH113
    return Found(folders, spec.origin) if is_source else Found(folders, is_opaque=True)


def listing(folder: str) -> Iterator[str]:
    """Yield the names in a folder; none where it cannot be read."""
    try:
        yield from os.listdir(folder)  # noqa: PTH208 -- names are all that is wanted
    except OSError:
        return


def read(file: str) -> str:
    """Return the text of a module; where it cannot be read, one that says nothing of the names in it."""
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 -- as above
            return opened.read()
    except OSError:
        return "("
