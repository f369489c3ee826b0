"""The index of events that the catalogue's compiler writes beside the modules that it generates."""

import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from mypy.nodes import MypyFile

from d9d.mypy.installation import catalogue_packages

FILE_NAME: Final = "index.json"


@dataclasses.dataclass(frozen=True)
class Index:
    """The events of one catalogue.

    Attributes:
        events: What the catalogue says of each event, by the full name of its constant.
        contexts: What it says of each context, by the full name of its class.
        aliases: What it says of each deprecated name that stands for another, by the full name.
        modules: What it says of each of its modules, by the name that the ids of the module's events begin with: its
            phases, and which event may follow which.
        digest: Tells two states of the file apart.
    """

    events: Mapping[str, Mapping[str, Any]]
    contexts: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    modules: Mapping[str, Mapping[str, Any]]
    digest: str

    def describes(self, module: str) -> bool:
        """Say whether a module defines events or contexts of this catalogue."""
        names = itertools.chain(self.events, self.contexts, self.aliases)
        return any(name.rpartition(".")[0] == module for name in names)

    def event(self, name: str) -> Mapping[str, Any] | None:
        """Return what is known of an event, be it called by its name or by a deprecated one.

        Args:
            name: The full name of the constant.

        Returns:
            Its entry, if there is one.
        """
        return self.events.get(str(self.aliases.get(name, {}).get("replaced_by", name)))

    @functools.cached_property
    def deprecated(self) -> Mapping[str, Mapping[str, Any]]:
        """What is deprecated, each with since when, what replaces it and a note, by the full name.

        The name of a field is that of its context, a dot and its own.
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

    An index is found beside the module that defines an event or a context, so catalogues need no configuration.
    """

    def __init__(self, projects: Iterable[Path] = ()) -> None:
        """Construct indexes none of which is read yet.

        Args:
            projects: The folders that may be the root of the checked project, the likeliest first.
        """
        self._projects = tuple(projects)
        self._by_folder: dict[str, Index] = {}
        self._by_module: dict[str, Index] = {}

    def beside(self, module_path: str) -> Index:
        """Return the index in the folder of a module; an empty one where there is none.

        Args:
            module_path: The source file of the module.

        Returns:
            What is known of the events in that folder.
        """
        # Asked of every module of a run, and paths are slow.
        return self._within(os.path.dirname(module_path))  # noqa: PTH120

    def that_deprecates(self, name: str, modules: Mapping[str, MypyFile]) -> Index | None:
        """Return the index that says something is deprecated; quickly, since all attributes are looked up.

        Args:
            name: The full name of anything.
            modules: All modules of this run.

        Returns:
            The index beside its module, if there is one and it says so.
        """
        owner = name.rpartition(".")[0]
        for module in (owner, owner.rpartition(".")[0]):  # a name of the module, or one of a class in it
            if module in modules:
                if module not in self._by_module:
                    self._by_module[module] = self.beside(modules[module].path)
                index = self._by_module[module]
                return index if name in index.deprecated else None
        return None

    @functools.cached_property
    def owners(self) -> Mapping[str, str]:
        """The package of the catalogue that owns a namespace, by the namespace, for all catalogues there are."""
        owners: dict[str, str] = {}
        for package, folder in catalogue_packages(self._projects):
            owners |= dict.fromkeys(self._within(str(folder)).modules, package)
        return owners

    def _within(self, folder: str) -> Index:
        if folder not in self._by_folder:
            self._by_folder[folder] = _read(Path(folder, FILE_NAME))
        return self._by_folder[folder]


def nearest(event: str, context: str, indexes: Iterable[Index]) -> list[str]:
    """Find the events that carry a context, those of the same module first, then those of the most similar name.

    Args:
        event: The full name of the event that was named instead.
        context: The full name of the context that they shall carry.
        indexes: Where to look.

    Returns:
        The full names of their constants.
    """
    module, _, constant = event.rpartition(".")

    def distance(name: str) -> tuple[bool, float, str]:
        other_module, _, other_constant = name.rpartition(".")
        similarity = difflib.SequenceMatcher(None, constant, other_constant).ratio()
        return other_module != module, -similarity, name

    carriers = {name for index in indexes for name, entry in index.events.items() if entry.get("context") == context}
    return sorted(carriers - {event}, key=distance)


def _read(path: Path) -> Index:
    """Read an index; a file that is none, or another program's, says nothing about events."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except (OSError, ValueError):
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


def _entries(content: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    entries = content.get(key)
    named = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in named if isinstance(entry, dict)}
