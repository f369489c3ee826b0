"""The catalogues that there are, and the index that the catalogue's compiler writes next to the modules of each."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mypy.nodes import MypyFile
from mypy.options import Options

FILE_NAME: Final = "index.json"
_OWN: Final = "d9d.loop.event.catalogue"
_GROUP: Final = "[d9d.catalogues]"  # the entry points in which an installed project names its catalogues
_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_VERSION: Final = 1
"""The format of an index that this version reads."""
_PACKAGE: Final = re.compile(r"""^package:[ \t]*["']?([\w.]+)""", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Index:
    """The events of one catalogue.

    Attributes:
        events: What the catalogue says of each event, by the full name of its constant.
        contexts: What it says of each context, by the full name of its class.
        aliases: What it says of each deprecated name that stands for another, by the full name.
        modules: What it says of each of its modules, by the namespace of the module's events: its phases, and which
            event may follow which.
        digest: A hash of the file.
    """

    events: Mapping[str, Mapping[str, Any]]
    contexts: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    modules: Mapping[str, Mapping[str, Any]]
    digest: str

    def describes(self, module: str) -> bool:
        """Return whether a module defines events or contexts of this catalogue."""
        names = itertools.chain(self.events, self.contexts, self.aliases)
        return any(name.rpartition(".")[0] == module for name in names)

    def event(self, name: str) -> Mapping[str, Any] | None:
        """Return what is known of an event, by its full name or a deprecated one."""
        return self.events.get(str(self.aliases.get(name, {}).get("replaced_by", name)))

    @functools.cached_property
    def deprecated(self) -> Mapping[str, Mapping[str, Any]]:
        """What is deprecated, by the full name: since when, what replaces it, and a note.

        The full name of a field is the name of its context, a dot, and its own name.
        """
        found = {
            f"{context}.{field}": status
            for context, entry in self.contexts.items()
            for field, status in _entries(entry, "deprecated_fields").items()
        }
        for name, entry in itertools.chain(self.events.items(), self.contexts.items(), self.aliases.items()):
            if isinstance(entry.get("deprecated"), dict):
                found[name] = entry["deprecated"]
        return found


EMPTY: Final = Index({}, {}, {}, {}, "")


class Indexes:
    """The indexes of all catalogues that the checked code touches, each read once a run.

    An index is found next to the module that defines an event or a context, so catalogues need no configuration.
    """

    def __init__(self, projects: Iterable[Path] = ()) -> None:
        """Construct indexes of which none is read yet.

        Args:
            projects: The folders that may be the root of the checked project, the likeliest first.
        """
        self._projects = tuple(projects)
        self._by_folder: dict[str, Index] = {}
        self._by_module: dict[str, Index] = {}

    def next_to(self, module_path: str) -> Index:
        """Return the index in the folder of a module; an empty one if there is none.

        Args:
            module_path: The source file of the module.
        """
        # Called for every module of a run, and `Path` is slow.
        return self._within(os.path.dirname(module_path))  # noqa: PTH120

    def declaration(self, event: str, modules: Mapping[str, MypyFile]) -> tuple[Index, Mapping[str, Any]] | None:
        """Find an event in the index of its catalogue.

        Args:
            event: The full name of its constant.
            modules: All modules of this run.

        Returns:
            The index and what it says of the event; `None` for an event without a catalogue.
        """
        module = modules.get(event.rpartition(".")[0])
        index = EMPTY if module is None else self.next_to(module.path)
        entry = index.event(event)
        return None if entry is None else (index, entry)

    def that_deprecates(self, name: str, modules: Mapping[str, MypyFile]) -> Index | None:
        """Return the index that deprecates something. It is called for every attribute, so it must be quick.

        Args:
            name: The full name of anything.
            modules: All modules of this run.

        Returns:
            The index next to the module of the name, if there is one and it deprecates the name.
        """
        owner = name.rpartition(".")[0]
        for module in (owner, owner.rpartition(".")[0]):  # a name of the module, or one of a class in it
            if module in modules:
                if module not in self._by_module:
                    self._by_module[module] = self.next_to(modules[module].path)
                index = self._by_module[module]
                return index if name in index.deprecated else None
        return None

    @functools.cached_property
    def owners(self) -> Mapping[str, str]:
        """The package of the catalogue that owns each namespace, by the namespace, for all catalogues that exist."""
        owners: dict[str, str] = {}
        for package, folder in self._packages:
            owners |= dict.fromkeys(self._within(str(folder)).modules, package)
        return owners

    def problem_next_to(self, module_path: str) -> str | None:
        """Return why the index of the catalogue that a module belongs to cannot be used; `None` if it can.

        Args:
            module_path: The source file of the module.
        """
        return self._problems.get(os.path.realpath(os.path.dirname(module_path))) if self._problems else None  # noqa: PTH120

    @functools.cached_property
    def _packages(self) -> Sequence[tuple[str, Path]]:
        return list(_packages(self._projects))

    @functools.cached_property
    def _problems(self) -> Mapping[str, str]:
        """What is wrong with an index, by the folder in which it is or should be."""
        found = ((folder, _problem(package, folder / FILE_NAME)) for package, folder in self._packages)
        return {os.path.realpath(folder): problem for folder, problem in found if problem is not None}

    def _within(self, folder: str) -> Index:
        if folder not in self._by_folder:
            self._by_folder[folder] = _read(Path(folder, FILE_NAME))
        return self._by_folder[folder]


def project_folders(options: Options) -> list[Path]:
    """Return the folders that may be the root of the checked project: that of mypy's settings, and the current one."""
    config_folders = [Path(options.config_file).parent] if options.config_file else []
    return [*config_folders, Path()]


def _read(path: Path) -> Index:
    """Read an index; a file that is no index, or belongs to another program, counts as an empty one."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return EMPTY
    if not isinstance(content, dict) or not isinstance(content.get("events"), dict):
        return EMPTY
    return Index(
        events=_entries(content, "events"),
        contexts=_entries(content, "contexts"),
        aliases=_entries(content, "aliases"),
        modules=_entries(content, "modules"),
        digest=hashlib.sha256(data).hexdigest(),
    )


def _problem(package: str, path: Path) -> str | None:
    """Return why an index cannot be used, and what to do; `None` if it can."""
    remedy = "run d9d-catalogue generate, or install the package again"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return f"{package} has no {FILE_NAME}, so its events cannot be verified: {remedy}"
    except (OSError, ValueError, RecursionError) as error:
        return f"{FILE_NAME} of {package} cannot be read ({type(error).__name__}: {error}): {remedy}"
    if not isinstance(content, dict) or not isinstance(content.get("events"), dict):
        return f"{FILE_NAME} of {package} is no index of events: {remedy}"
    if content.get("version", _VERSION) != _VERSION:
        return (
            f"{FILE_NAME} of {package} has the format {content['version']!r}, and this version of d9d reads "
            f"{_VERSION}: install the version of d9d that the catalogue is generated with, or {remedy}"
        )
    return None


def _entries(content: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    entries = content.get(key)
    named = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in named if isinstance(entry, dict)}


def _packages(projects: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the packages of the catalogues of d9d, of what is installed, and of the checked project.

    Nothing is imported. A package that cannot be found is left out.

    Args:
        projects: The folders that may be the root of the checked project, the likeliest first.

    Yields:
        The name of each package, and its folder.
    """
    yield _OWN, Path(__file__).parents[1].joinpath(*_OWN.split(".")[1:])
    roots = [Path(folder or ".") for folder in sys.path]
    for package in _installed(roots):
        yield from _found(package, roots)
    for root, catalogues in _in_settings(projects):
        for package in filter(None, map(_package_of, catalogues)):
            yield from _found(package, [root, root / "src"])


def _found(package: str, roots: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield a package with the first folder that exists for it; nothing for what is not the name of a package."""
    if _NAME.fullmatch(package) is None:
        return
    folders = (root.joinpath(*package.split(".")) for root in roots)
    yield from ((package, folder) for folder in list(filter(Path.is_dir, folders))[:1])


def _installed(folders: Iterable[Path]) -> Iterator[str]:
    """Yield the packages that entry points name; importlib.metadata would take many times as long."""
    for folder in folders:
        for path in sorted(folder.glob("*.dist-info/entry_points.txt")):
            _, _, entries = _text(path).partition(_GROUP)
            for line in entries.partition("\n[")[0].splitlines():
                _, equals, package = line.partition("=")
                if equals:
                    yield package.strip()


def _in_settings(projects: Iterable[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the first of some folders whose `pyproject.toml` names catalogues, and those catalogues."""
    for root in projects:
        settings: Any = {}
        with suppress(tomllib.TOMLDecodeError, RecursionError):
            settings = tomllib.loads(_text(root / "pyproject.toml"))
        for key in ("tool", "d9d", "catalogues"):
            settings = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(settings, list):
            yield root, [root / name for name in settings if isinstance(name, str)]
            return


def _package_of(catalogue: Path) -> str | None:
    """Return the package that a catalogue is compiled into: one line of it, which is found without a YAML parser."""
    line = _PACKAGE.search(_text(catalogue))
    return line and line[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
