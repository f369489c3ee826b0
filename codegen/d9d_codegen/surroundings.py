"""What lies around a catalogue: the other catalogues of its project, installed ones, and all that can be imported."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from d9d_codegen.importable import Importable

_GROUP: Final = "[d9d.catalogues]"  # of entry points, by which an installed project says where its catalogue is
_OWN: Final = "d9d.loop.event.catalogue"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What a catalogue knows of another one of its project.

    Attributes:
        path: The path of the other one, as the user named it.
        package: The dotted name of its package.
        modules: The names of its modules.
        contexts: The full dotted paths of its contexts.
    """

    path: Path
    package: str
    modules: tuple[str, ...]
    contexts: tuple[str, ...]

    @property
    def module_paths(self) -> frozenset[str]:
        """The full dotted paths of its modules."""
        return frozenset(f"{self.package}.{module}" for module in self.modules)


class Surroundings:
    """What lies around a catalogue.

    Args:
        root: The project's root.
        package: The catalogue's own package.
        neighbours: The other catalogues of the project.
        earlier: Those of them that the project names before this one.
    """

    def __init__(
        self, root: Path, package: str, neighbours: Iterable[Neighbour] = (), earlier: Sequence[Neighbour] = ()
    ) -> None:
        self.neighbours = tuple(neighbours)
        self.earlier = tuple(earlier)
        self.importable = Importable([str(root), str(root / "src")])
        self._package = package

    @cached_property
    def owners(self) -> dict[str, str]:
        """The package of the catalogue that owns a namespace, by the namespace, for all owners but this catalogue."""
        own = {self._package, *(neighbour.package for neighbour in self.neighbours)}
        found: dict[str, str] = {}
        for package in (_OWN, *self._packages_of_entry_points()):
            if package not in own:
                found |= dict.fromkeys(self._index(package).get("modules", ()), package)
        for neighbour in reversed(self.earlier):
            found |= dict.fromkeys(neighbour.modules, neighbour.package)
        return found

    def contexts_of(self, package: str) -> Iterable[str] | None:
        """Return the full paths of the contexts of an installed catalogue; nothing where it is none."""
        contexts = self._index(package).get("contexts")
        return contexts if isinstance(contexts, dict) else None

    def _index(self, package: str) -> dict[str, dict[str, object]]:
        """Return the index beside the modules of a package; an empty one where there is none that makes sense."""
        found = self.importable.find(package)
        for folder in found.folders if found else ():
            with suppress(OSError, ValueError):
                index = json.loads((Path(folder) / "index.json").read_bytes())
                if isinstance(index, dict) and index.get("package") == package:
                    return {key: value for key, value in index.items() if isinstance(value, dict)}
        return {}

    def _packages_of_entry_points(self) -> Iterator[str]:
        """Yield what installed projects name; importlib.metadata would take longer than all the rest together."""
        for folder in self.importable.folders:
            with suppress(OSError):
                for name in sorted(os.listdir(folder)):  # noqa: PTH208 -- names are all that is wanted
                    if name.endswith(".dist-info"):
                        yield from _entry_points(Path(folder, name, "entry_points.txt"))


def _entry_points(path: Path) -> Iterator[str]:
    try:
        _, _, after = path.read_text(encoding="utf-8").partition(_GROUP)
    except (OSError, ValueError):
        return
    for line in after.partition("\n[")[0].splitlines():
        _, equals, package = line.partition("=")
        if equals:
            yield package.strip()
