"""Where a catalogue's artefacts go: the project around it."""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from d9d_codegen.problem import Problem, RefusedError

_DEFAULT_LINE_LENGTH: Final = 88  # ruff's own


@dataclass(frozen=True, slots=True)
class Project:
    """The project that a catalogue belongs to.

    Attributes:
        root: The folder of the catalogue.
        docs: The folder of the API pages, relative to the root, if the project wants them.
        line_length: The longest line of generated Python.
        catalogues: The catalogues that the project names, in its order.
        templates: The folder of the project's own templates, if it has any.
    """

    root: Path
    docs: PurePosixPath | None
    line_length: int
    catalogues: tuple[Path, ...] = ()
    templates: Path | None = None

    def package_folder(self, package: str) -> PurePosixPath:
        """Return the folder of a package, relative to the root: below the root itself or below its `src`."""
        folder = PurePosixPath(*package.split("."))
        top = folder.parts[0]
        is_at_root = os.path.isdir(self.root / top)  # noqa: PTH112 -- a name may be too long, which a Path would raise
        below_source = not is_at_root and (self.root / "src").is_dir()
        return "src" / folder if below_source else folder

    def pages_folder(self, package: str) -> PurePosixPath | None:
        """Return the folder of a catalogue's pages, one of its own where the project has several catalogues."""
        return self.docs / package if self.docs and len(self.catalogues) > 1 else self.docs


def find_catalogues() -> list[Path]:
    """Return the catalogues that the nearest project names, `catalogue.yaml` where there is no such project.

    Raises:
        RefusedError: What the project says of its catalogues makes no sense.
    """
    here = Path("catalogue.yaml")
    settings = [folder / "pyproject.toml" for folder in _upwards(Path())]
    path = next((path for path in settings if path.is_file()), None)
    named = _catalogues(_settings(path), path) if path else ()
    is_of_another = here.is_file() and _absolute(here) not in map(_absolute, named)
    return [*named] if named and not is_of_another else [here]


def find_project(catalogue: Path) -> Project:
    """Read the `pyproject.toml` that names a catalogue, or else the one beside it, if there is one.

    Raises:
        RefusedError: It cannot be read, or holds a setting that makes no sense.
    """
    path = next(_naming(catalogue), catalogue.parent / "pyproject.toml")
    settings = _settings(path)
    docs = _folder(settings, "docs", path, "docs/events")
    templates = _folder(settings, "templates", path, "templates")
    line_length = _setting(settings, "tool", "ruff", "line-length")
    return Project(
        root=path.parent,
        docs=PurePosixPath(docs) if docs else None,
        line_length=line_length if isinstance(line_length, int) else _DEFAULT_LINE_LENGTH,
        catalogues=_catalogues(settings, path),
        templates=path.parent / templates if templates else None,
    )


def _folder(settings: dict[str, Any], name: str, path: Path, example: str) -> str | None:
    folder = _setting(settings, "tool", "d9d", name)
    if folder is not None and not _is_folder_within(folder):
        remedy = f'name a folder below it: {name} = "{example}"'
        raise _bad_project(path, f"[tool.d9d] {name} is {folder!r}, which is no folder of the project", remedy)
    return str(folder) if folder else None


def _upwards(folder: Path) -> Iterator[Path]:
    """Yield a folder and those above it, as the user would name them."""
    yield folder
    for above in folder.absolute().parents:
        yield Path(os.path.relpath(above)) if not folder.is_absolute() else above


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 -- links are not followed


def _naming(catalogue: Path) -> Iterator[Path]:
    """Yield each `pyproject.toml` above a catalogue that names it."""
    for folder in _upwards(catalogue.parent):
        path = folder / "pyproject.toml"
        try:
            is_named = _absolute(catalogue) in map(_absolute, _catalogues(_settings(path), path))
        except RefusedError:
            continue  # of another project, or told as that of the folder itself
        if is_named:
            yield path


def _settings(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad_project(path, f"the file cannot be read: {error}", "mend it") from None


@lru_cache(maxsize=8)
def _parsed(content: bytes) -> dict[str, Any]:
    return tomllib.loads(content.decode("utf-8"))


def _catalogues(settings: dict[str, Any], path: Path) -> tuple[Path, ...]:
    named = _setting(settings, "tool", "d9d", "catalogues")
    if named is None:
        return ()
    if not isinstance(named, list) or not named or not all(map(_is_folder_within, named)):
        remedy = 'name files below the project\'s root: catalogues = ["catalogue.yaml"]'
        raise _bad_project(path, f"[tool.d9d] catalogues is {named!r}, which is no list of its files", remedy)
    return tuple(path.parent / name for name in dict.fromkeys(named))


def _bad_project(path: Path, message: str, remedy: str) -> RefusedError:
    return RefusedError([Problem(path, "bad-project", message, remedy)])


def _setting(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _is_folder_within(docs: object) -> bool:
    if not isinstance(docs, str) or not docs.strip() or "\0" in docs:
        return False
    folder = PurePosixPath(docs)
    return not folder.is_absolute() and ".." not in folder.parts
