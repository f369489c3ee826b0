"""The index of events that the catalogue's compiler writes beside the modules that it generates."""

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

FILE_NAME: Final = "index.json"


@dataclasses.dataclass(frozen=True)
class Index:
    """The events of one catalogue.

    Attributes:
        events: What the catalogue says of each event, by the full name of its constant.
        aliases: What it says of each deprecated name that stands for another, by the full name.
        digest: Tells two states of the file apart.
    """

    events: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    digest: str

    def describes(self, module: str) -> bool:
        """Say whether a module defines events of this catalogue."""
        return any(name.rpartition(".")[0] == module for name in self.events)

    def event(self, name: str) -> Mapping[str, Any] | None:
        """Return what is known of an event, be it called by its name or by a deprecated one.

        Args:
            name: The full name of the constant.

        Returns:
            Its entry, if there is one.
        """
        return self.events.get(str(self.aliases.get(name, {}).get("replaced_by", name)))


EMPTY: Final = Index({}, {}, "")


class Indexes:
    """The indexes of all catalogues that the checked code touches, each read once a run.

    An index is found beside the module that defines an event or a context, so catalogues need no configuration.
    """

    def __init__(self) -> None:
        self._by_folder: dict[str, Index] = {}

    def beside(self, module_path: str) -> Index:
        """Return the index in the folder of a module; an empty one where there is none.

        Args:
            module_path: The source file of the module.

        Returns:
            What is known of the events in that folder.
        """
        folder = os.path.dirname(module_path)  # noqa: PTH120 -- asked of every module of a run, and paths are slow
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
    return Index(_entries(content, "events"), _entries(content, "aliases"), hashlib.sha256(data).hexdigest())


def _entries(content: dict[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    entries = content.get(key)
    named = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in named if isinstance(entry, dict)}
