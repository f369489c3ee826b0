"""Which catalogues there are, whether or not the checked code imports their modules: they own their namespaces."""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mypy.options import Options

_OWN: Final = "d9d.loop.event.catalogue"
_GROUP: Final = "[d9d.catalogues]"  # of entry points, by which an installed project says where its catalogue is
_PACKAGE: Final = re.compile(r"""^package:[ \t]*["']?([\w.]+)""", re.MULTILINE)


def project_folders(options: Options) -> list[Path]:
    """Return the folders that may be the root of the checked project: beside mypy's settings, and the current one."""
    beside_settings = [Path(options.config_file).parent] if options.config_file else []
    return [*beside_settings, Path()]


def catalogue_packages(projects: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the packages of the catalogues of d9d, of all that is installed, and of the checked project.

    Nothing of them is imported. A package that is nowhere to be found is left out.

    Args:
        projects: The folders that may be the root of the checked project, the likeliest first.

    Yields:
        The name of each package, and its folder.
    """
    yield _OWN, Path(__file__).parents[1].joinpath(*_OWN.split(".")[1:])
    roots = [Path(folder or ".") for folder in sys.path]
    for package in _installed(roots):
        yield from _found(package, roots)
    for root, catalogues in _named(projects):
        for package in filter(None, map(_package_of, catalogues)):
            yield from _found(package, [root, root / "src"])


def _found(package: str, roots: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield a package with its folder, the first there is."""
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


def _named(projects: Iterable[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the first of some folders whose `pyproject.toml` names catalogues, and those catalogues."""
    for root in projects:
        settings: Any = {}
        with suppress(tomllib.TOMLDecodeError):
            settings = tomllib.loads(_text(root / "pyproject.toml"))
        for key in ("tool", "d9d", "catalogues"):
            settings = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(settings, list):
            yield root, [root / name for name in settings if isinstance(name, str)]
            return


def _package_of(catalogue: Path) -> str | None:
    """Return the package that a catalogue is compiled into: one line of it, which needs no YAML to be read."""
    line = _PACKAGE.search(_text(catalogue))
    return line and line[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
