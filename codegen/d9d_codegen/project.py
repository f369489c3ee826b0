"""The project around a catalogue: its settings in `pyproject.toml`, and the first catalogue of a new project."""

import json
import keyword
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Span, suggestion

_DEFAULT_LINE_LENGTH: Final = 88  # ruff's own
_KEYS: Final = ("catalogues", "docs", "templates", "sources")


@dataclass(frozen=True, slots=True)
class Project:
    """The project that a catalogue belongs to.

    Attributes:
        root: The folder of its `pyproject.toml`, or else of the catalogue.
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
        is_at_root = os.path.isdir(self.root / top)  # noqa: PTH112 -- Path raises where a name is too long
        below_source = not is_at_root and (self.root / "src").is_dir()
        return "src" / folder if below_source else folder

    def pages_folder(self, package: str) -> PurePosixPath | None:
        """Return the folder of a catalogue's pages: one per package where the project has several catalogues."""
        return self.docs / package if self.docs and len(self.catalogues) > 1 else self.docs

    def name_of(self, catalogue: Path) -> str:
        """Return the path of a catalogue, relative to the root."""
        return PurePosixPath(os.path.relpath(catalogue, self.root)).as_posix()


def find_catalogues() -> list[Path]:
    """Return the catalogues that the nearest project names, or `catalogue.yaml` where no project names any.

    Raises:
        DiagnosticError: The settings of the project are not valid.
    """
    here = Path("catalogue.yaml")
    nearest = _nearest(Path())
    named = nearest.catalogues() if nearest else ()
    is_of_another = here.is_file() and _absolute(here) not in map(_absolute, named)
    return [*named] if named and not is_of_another else [here]


def find_project(catalogue: Path) -> Project:
    """Return the project whose `pyproject.toml` names a catalogue, or else has it in the same folder.

    Raises:
        DiagnosticError: The settings of the project are not valid.
    """
    nearest = _nearest(catalogue.parent)  # checked even if it does not name the catalogue: a key may be misspelt
    settings = next(_naming(catalogue), None)
    if settings is None:
        is_in_same_folder = nearest is not None and nearest.path.parent == catalogue.parent
        settings = nearest if nearest and is_in_same_folder else _Settings(catalogue.parent / "pyproject.toml")
    root = settings.check().path.parent
    docs, templates = settings.folder("docs", "docs/events"), settings.folder("templates", "templates")
    settings.files("sources", "src")
    if templates and not Path(os.path.realpath(root / templates)).is_relative_to(os.path.realpath(root)):
        message = f"[tool.d9d] templates is {templates!r}, a link that leads out of the project"
        raise settings.refused(message, "name a folder in the project", "templates")
    return Project(
        root=root,
        docs=PurePosixPath(docs) if docs else None,
        line_length=settings.line_length,
        catalogues=settings.catalogues(),
        templates=root / templates if templates else None,
    )


def catalogues_in(settings: str) -> list[str]:
    """Return the catalogues that the text of a `pyproject.toml` names; none where it is not valid."""
    try:
        named = _value(_parsed(settings), "tool", "d9d", "catalogues")
    except tomllib.TOMLDecodeError:
        return []
    return [path for path in named if _is_inside(path)] if isinstance(named, list) else []


class _Settings:
    """The settings in a `pyproject.toml`; none where there is no such file.

    Raises:
        DiagnosticError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = ""
        try:
            self._text = path.read_bytes().decode("utf-8")
            settings = _parsed(self._text)
        except FileNotFoundError:
            settings = {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise self.refused(f"the file cannot be read: {error}", "correct the file, or its permissions") from None
        line_length = _value(settings, "tool", "ruff", "line-length")
        self.line_length = line_length if isinstance(line_length, int) else _DEFAULT_LINE_LENGTH
        self._own = _value(settings, "tool", "d9d")

    def check(self) -> Self:
        """Return the settings if `[tool.d9d]` is a table without unknown keys.

        Raises:
            DiagnosticError: It is not.
        """
        if self._own is not None and not isinstance(self._own, dict):
            raise self.refused("[tool.d9d] is not a table", 'write [tool.d9d], and below it `docs = "docs/events"`')
        for key in self._own or {}:
            if key not in _KEYS:
                remedy = suggestion(key, _KEYS, f"the keys are {', '.join(_KEYS)}")
                raise self.refused(f'unknown key "{key}" in [tool.d9d]', remedy, key)
        return self

    def names(self, catalogue: Path) -> bool:
        """Return whether the project names a catalogue."""
        named = _value(self._own, "catalogues")
        paths = filter(_is_inside, named) if isinstance(named, list) else ()
        return _absolute(catalogue) in (_absolute(self.path.parent / path) for path in paths)

    def catalogues(self) -> tuple[Path, ...]:
        """Return the catalogues that the project names."""
        named = self.files("catalogues", "catalogue.yaml")
        return tuple(self.path.parent / name for name in dict.fromkeys(named))

    def files(self, key: str, example: str) -> list[str]:
        """Return the value of a key that lists files or folders of the project."""
        named = _value(self._own, key)
        if named is None:
            return []
        if not isinstance(named, list) or not named or not all(map(_is_inside, named)):
            remedy = f'list paths below the root of the project: {key} = ["{example}"]'
            raise self.refused(f"[tool.d9d] {key} is {named!r}, not a list of paths in the project", remedy, key)
        return named

    def folder(self, key: str, example: str) -> str | None:
        """Return the value of a key that names a folder of the project."""
        folder = _value(self._own, key)
        if folder is not None and not _is_inside(folder):
            remedy = f'name a folder below the root of the project: {key} = "{example}"'
            raise self.refused(f"[tool.d9d] {key} is {folder!r}, not a folder in the project", remedy, key)
        return folder if isinstance(folder, str) else None

    def refused(self, message: str, remedy: str, key: str = "") -> DiagnosticError:
        """Return the error that the settings, or the value of a key, are not valid."""
        _, _, own = self._text.partition("[tool.d9d]")
        for number, line in enumerate(
            own.splitlines() if key else [], start=1 + self._text.count("\n") - own.count("\n")
        ):
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                span = Span(number, line.index(key) + 1, len(key))
                return DiagnosticError([Diagnostic(self.path, "bad-project", message, remedy, span, line)])
        return DiagnosticError([Diagnostic(self.path, "bad-project", message, remedy)])


def _upwards(folder: Path) -> Iterator[Path]:
    """Yield a folder and those above it, as the user would name them."""
    yield folder
    for above in folder.absolute().parents:
        yield Path(os.path.relpath(above)) if not folder.is_absolute() else above


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 -- links are not followed


def _nearest(folder: Path) -> _Settings | None:
    """Return the settings of the nearest project at or above a folder, if there is one."""
    path = next((path for above in _upwards(folder) if (path := above / "pyproject.toml").is_file()), None)
    return _Settings(path).check() if path else None


def _naming(catalogue: Path) -> Iterator[_Settings]:
    """Yield the settings of each project above a catalogue that names it."""
    for folder in _upwards(catalogue.parent):
        try:
            settings = _Settings(folder / "pyproject.toml")
        except DiagnosticError:
            continue  # of another project; the nearest one is reported elsewhere
        if settings.names(catalogue):
            yield settings


@lru_cache(maxsize=8)
def _parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def _value(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _is_inside(path: object) -> bool:
    """Return whether a setting is a path below the root of the project."""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        return False
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


_TABLE: Final = """\
[tool.d9d]
catalogues = [{name}]
docs = "docs/events"  # for API pages; remove it if you want none
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
      working: {{doc: Items are processed., repeats: true, optional: true}}
      finished: {{doc: Everything is done., terminal: true}}
    contexts:  # what an event passes to its handlers: each becomes a dataclass
      EventItemContext:
        doc: Context of one item.
        fields:
          index: {{type: int, doc: "The item's number, counted from 0."}}
          tags:  # a type's names are builtins or full dotted paths: torch.Tensor, pathlib.Path
            type: list[str] | None
            doc: The item's tags, if any.
            default: None
      EventFinishedContext:
        doc: Context of the end of the run.
    events:  # in the order in which they are triggered; X.pre and X.post are the two sides of one moment
      EVENT_{constant}_ITEM_PRE:
        id: {package}.item.pre
        phase: working
        context: EventItemContext  # or one of d9d: d9d.loop.event.catalogue.common.EventStepContext
        doc: Triggered before an item is processed.
      EVENT_{constant}_ITEM_POST:
        id: {package}.item.post
        phase: working
        context: EventItemContext
        doc: Triggered after an item was processed.
      EVENT_{constant}_FINISHED:
        id: {package}.finished
        phase: finished
        context: EventFinishedContext
        doc: Triggered once, when all items are done.
"""


def start(path: Path) -> str:
    """Write a first catalogue, and name it in the `pyproject.toml` next to it unless that has a `[tool.d9d]`.

    Args:
        path: The path of the catalogue.

    Returns:
        What was written, and what to do next.

    Raises:
        DiagnosticError: The file already exists, or cannot be written.
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
        raise _refused(path, "the file already exists", remedy) from None
    except OSError as error:
        raise _refused(path, f"the file cannot be written: {error.strerror}", "choose another path") from None
    table = _TABLE.format(name=json.dumps(path.name))
    next_step = f"wrote {path}; edit it, then run `d9d-catalogue generate`"
    if before is None or "[tool.d9d" in before:
        return f"{next_step}\nadd this to {settings}:\n\n{table.rstrip()}"
    try:
        with settings.open("a", encoding="utf-8") as file:
            file.write(("" if before.endswith("\n") or not before else "\n") + ("\n" if before else "") + table)
    except OSError as error:
        return f"{next_step}\n{settings} cannot be written ({error.strerror}); add this to it:\n\n{table.rstrip()}"
    return f"{next_step}\nadded [tool.d9d] to {settings}"


def _read(settings: Path) -> str | None:
    try:
        return settings.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(settings, f"the file cannot be read: {error}", "correct the file, or its permissions") from None


def _package(settings: str | None, path: Path) -> str:
    """Return a name for the package: the name of the project, or else of its folder."""
    try:
        project = tomllib.loads(settings or "").get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise _refused(
            path.parent / "pyproject.toml", f"the file cannot be read: {error}", "correct the file, or its permissions"
        ) from None
    given = project.get("name") if isinstance(project, dict) else None
    name = given if isinstance(given, str) else path.absolute().parent.name
    package = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    is_free = package not in ("train", "inference", "common") and not keyword.iskeyword(package)
    return package if package[:1].isalpha() and is_free else "project"


def _refused(path: Path, message: str, remedy: str) -> DiagnosticError:
    return DiagnosticError([Diagnostic(path, "not-started", message, remedy)])
