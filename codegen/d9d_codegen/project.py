"""Project."""

import json
import keyword
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError

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
        DiagnosticError: What the project says of its catalogues makes no sense.
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
        DiagnosticError: It cannot be read, or holds a setting that makes no sense.
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
        except DiagnosticError:
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


def _bad_project(path: Path, message: str, remedy: str) -> DiagnosticError:
    return DiagnosticError([Diagnostic(path, "bad-project", message, remedy)])


def _setting(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _is_folder_within(docs: object) -> bool:
    if not isinstance(docs, str) or not docs.strip() or "\0" in docs:
        return False
    folder = PurePosixPath(docs)
    return not folder.is_absolute() and ".." not in folder.parts


_TABLE: Final = """\
[tool.d9d]
catalogues = [{name}]
docs = "docs/events"  # for API pages; take it out if you want none
"""
_CATALOGUE: Final = """\
# The events that this project adds to those of d9d. Edit it, run `d9d-catalogue generate`, commit both.
# For completion in an editor run `d9d-catalogue schema > catalogue.schema.json`, and make this the first line:
# yaml-language-server: $schema=catalogue.schema.json
version: 1
package: {package}.events  # the modules are written into this package, below the project's root or its `src`
modules:
  {package}:  # becomes {package}/events/{package}.py; the ids of its events begin with "{package}."
    doc: Events of {package}.
    phases:  # in the order in which a run passes through them
      working: {{doc: Something is being done., repeats: true, optional: true}}
      finished: {{doc: Everything is done., terminal: true}}
    contexts:  # what an event tells those who hear it: each becomes a dataclass
      EventItemContext:
        doc: Context of one item.
        fields:
          index: {{type: int, doc: "The item's number, counted from 0."}}
          tags:  # a type's names are builtins or full dotted paths: torch.Tensor, pathlib.Path
            type: list[str] | None
            doc: What is known of the item.
            default: None
      EventFinishedContext:
        doc: Context of the moment at which everything is done.
    events:  # in the order in which they are triggered; X.pre and X.post are the two sides of one moment
      EVENT_{constant}_ITEM_PRE:
        id: {package}.item.pre
        phase: working
        context: EventItemContext  # or one of d9d: d9d.loop.event.catalogue.common.EventStepContext
        doc: Triggered before an item is worked on.
      EVENT_{constant}_ITEM_POST:
        id: {package}.item.post
        phase: working
        context: EventItemContext
        doc: Triggered after an item was worked on.
      EVENT_{constant}_FINISHED:
        id: {package}.finished
        phase: finished
        context: EventFinishedContext
        doc: Triggered once, when all items are done.
"""


def start(path: Path) -> str:
    """Write a first catalogue, and name it in the `pyproject.toml` beside it where that says nothing of catalogues.

    Args:
        path: Where the catalogue shall lie.

    Returns:
        What was written, and what to do next.

    Raises:
        DiagnosticError: There is a file already, or one cannot be written.
    """
    settings = path.parent / "pyproject.toml"
    before = _read(settings)
    package = _package(before, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(_CATALOGUE.format(package=package, constant=package.upper()))
    except FileExistsError:
        remedy = "edit it, or name another file with --catalogue PATH"
        raise _refused(path, "there is such a file already", remedy) from None
    except OSError as error:
        raise _refused(path, f"the file cannot be written: {error.strerror}", "name another one") from None
    table = _TABLE.format(name=json.dumps(path.name))
    next_step = f"wrote {path}; edit it, then run `d9d-catalogue generate`"
    if before is None or "[tool.d9d" in before:
        return f"{next_step}\nname it in {settings}:\n\n{table.rstrip()}"
    try:
        with settings.open("a", encoding="utf-8") as file:
            file.write(("" if before.endswith("\n") or not before else "\n") + ("\n" if before else "") + table)
    except OSError as error:
        return f"{next_step}\n{settings} cannot be written ({error.strerror}); name it there:\n\n{table.rstrip()}"
    return f"{next_step}\nadded [tool.d9d] to {settings}"


def _read(settings: Path) -> str | None:
    try:
        return settings.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(settings, f"the file cannot be read: {error}", "mend it") from None


def _package(settings: str | None, path: Path) -> str:
    """Return a name for the package: that of the project, or else of its folder."""
    try:
        project = tomllib.loads(settings or "").get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise _refused(path.parent / "pyproject.toml", f"the file cannot be read: {error}", "mend it") from None
    given = project.get("name") if isinstance(project, dict) else None
    name = given if isinstance(given, str) else path.absolute().parent.name
    package = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    is_free = package not in ("train", "inference", "common") and not keyword.iskeyword(package)
    return package if package[:1].isalpha() and is_free else "project"


def _refused(path: Path, message: str, remedy: str) -> DiagnosticError:
    return DiagnosticError([Diagnostic(path, "not-started", message, remedy)])
