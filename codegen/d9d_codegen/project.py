"""Where a catalogue's artefacts go: the project around it."""

import tomllib
from dataclasses import dataclass
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
    """

    root: Path
    docs: PurePosixPath | None
    line_length: int

    def package_folder(self, package: str) -> PurePosixPath:
        """Returns the folder of a package, relative to the root: below the root itself or below its `src`."""
        folder = PurePosixPath(*package.split("."))
        top = folder.parts[0]
        below_source = not (self.root / top).is_dir() and (self.root / "src").is_dir()
        return "src" / folder if below_source else folder


def find_project(catalogue: Path) -> Project:
    """Reads the `pyproject.toml` beside a catalogue, if there is one.

    Raises:
        RefusedError: It cannot be read, or holds a setting that makes no sense.
    """
    path = catalogue.parent / "pyproject.toml"
    try:
        settings = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        settings = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad_project(path, f"the file cannot be read: {error}", "mend it") from None
    docs = _setting(settings, "tool", "d9d", "docs")
    if docs is not None and not _is_folder_within(docs):
        remedy = 'name a folder below it: docs = "docs/events"'
        raise _bad_project(path, f"[tool.d9d] docs is {docs!r}, which is no folder of the project", remedy)
    line_length = _setting(settings, "tool", "ruff", "line-length")
    return Project(
        root=catalogue.parent,
        docs=PurePosixPath(docs) if docs else None,
        line_length=line_length if isinstance(line_length, int) else _DEFAULT_LINE_LENGTH,
    )


def _bad_project(path: Path, message: str, remedy: str) -> RefusedError:
    return RefusedError([Problem(path, "bad-project", message, remedy)])


def _setting(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _is_folder_within(docs: object) -> bool:
    if not isinstance(docs, str) or not docs.strip():
        return False
    folder = PurePosixPath(docs)
    return not folder.is_absolute() and ".." not in folder.parts
