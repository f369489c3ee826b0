"""The catalogue that a project begins with."""

import json
import keyword
import re
import tomllib
from pathlib import Path
from typing import Final

from d9d_codegen.problem import Problem, RefusedError

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
        RefusedError: There is a file already, or one cannot be written.
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


def _refused(path: Path, message: str, remedy: str) -> RefusedError:
    return RefusedError([Problem(path, "not-started", message, remedy)])
