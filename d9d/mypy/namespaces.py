"""The namespaces that catalogues own: the first segments of event ids."""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from d9d.mypy.index import FILE_NAME, Indexes

_FRAMEWORK: Final = Path(__file__).parents[1] / "loop" / "event" / "catalogue"
_ENTRY_POINTS: Final = "d9d.catalogues"
_PACKAGE: Final = re.compile(r"""^package:\s*["']?([\w.]+)""", re.MULTILINE)
"""The one line of a catalogue that is read: its compiler accepts nothing but a dotted name there."""


def owner_of(namespace: str, module_path: str, indexes: Indexes) -> str | None:
    """Return the package of the catalogue that owns a namespace.

    Asked are the catalogue of d9d, those of installed projects, and those that the project of the module names.

    Args:
        namespace: The first segment of an id.
        module_path: The source file of the module that uses it.
        indexes: Where catalogues declare their events.

    Returns:
        The package, if a catalogue owns the namespace.
    """
    for folder in (_FRAMEWORK, *_of_project(Path(module_path).absolute()), *_installed()):
        index = indexes.beside(str(folder / FILE_NAME))
        if namespace in index.namespaces:
            return index.package
    return None


def _installed() -> Iterator[Path]:
    """Yield the folders of the catalogues that installed projects name."""
    for point in importlib.metadata.entry_points(group=_ENTRY_POINTS):
        yield from (Path(root, *point.value.split(".")) for root in sys.path)


def _of_project(module: Path) -> Iterator[Path]:
    """Yield the folders of the catalogues that the nearest project above a module names."""
    for root in module.parents:
        for catalogue in _named_in(root / "pyproject.toml"):
            package = _PACKAGE.search(_text(root / catalogue))
            if package:
                yield from (Path(top, *package[1].split(".")) for top in (root, root / "src"))
        if (root / "pyproject.toml").is_file():
            return


def _named_in(path: Path) -> list[str]:
    """Return the catalogues that a project names; none where it makes no sense, which the compiler tells."""
    try:
        named = tomllib.loads(_text(path)).get("tool", {}).get("d9d", {}).get("catalogues", [])
    except (tomllib.TOMLDecodeError, AttributeError):
        return []
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
