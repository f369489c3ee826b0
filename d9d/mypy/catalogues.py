"""The catalogues that there are, and the index that the catalogue's compiler writes next to the modules of each."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mypy.nodes import MypyFile

from d9d_check.catalogues import FILE_NAME, Catalogues
from d9d_check.files import read_file


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

    def __init__(self, catalogues: Callable[[], Catalogues]) -> None:
        """Construct indexes of which none is read yet.

        Args:
            catalogues: Returns what `d9d check` knows of the catalogues of d9d, of installed projects, and of the
                checked project.
        """
        self._catalogues = catalogues
        self._by_folder: dict[str, Index] = {}
        self._by_module: dict[str, Index] = {}

    def forget(self) -> None:
        """Read each index again when it is asked for next."""
        self._by_folder.clear()
        self._by_module.clear()

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

    @property
    def owners(self) -> Mapping[str, str]:
        """The package of the catalogue that owns each namespace, by the namespace, for all catalogues that exist."""
        return self._catalogues().owners

    def problem_next_to(self, module_path: str) -> str | None:
        """Return why the index of the catalogue that a module belongs to cannot be used; `None` if it can.

        Args:
            module_path: The source file of the module.
        """
        problem_in = self._catalogues().problem_in
        return problem_in.get(os.path.realpath(os.path.dirname(module_path))) if problem_in else None  # noqa: PTH120

    def _within(self, folder: str) -> Index:
        if folder not in self._by_folder:
            self._by_folder[folder] = _read(Path(folder, FILE_NAME))
        return self._by_folder[folder]


def _read(path: Path) -> Index:
    """Read an index; a file that is no index, or belongs to another program, counts as an empty one."""
    try:
        data = read_file(path)
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


def _entries(content: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    entries = content.get(key)
    named = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in named if isinstance(entry, dict)}
