"""The events of catalogues, from the index that the catalogue's compiler writes next to the modules of each.

Nothing is imported and no YAML is parsed: packages are found on the path of Python, in entry points, and in the
settings of the project.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from d9d_check.files import read_file

FILE_NAME: Final = "index.json"
OWN: Final = "d9d.loop.event.catalogue"
_GROUP: Final = "[d9d.catalogues]"  # the entry points in which an installed project names its catalogues
_PACKAGE: Final = re.compile(r"""^package:[ \t]*["']?([\w.]+)""", re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_VERSION: Final = 1
"""The format of an index that this version reads."""
_CONSTANT: Final = re.compile(r"^(EVENT_\w+|Event\w+Context)\b[ \t]*[:=]|^class (Event\w+Context)\b", re.MULTILINE)
"""What a generated module defines at the beginning of a line."""
_DECLARED: Final = re.compile(r"^[ \t]+[\"']?(EVENT_\w+|Event\w+Context)[\"']?[ \t]*:", re.MULTILINE)
"""What a catalogue declares: a key of its own line, in any of its modules."""
_KEYS: Final = ("catalogues", "docs", "templates", "sources")
"""What `[tool.d9d]` may say, here or to the compiler of catalogues."""
_MAX_TYPE: Final = 500
"""Characters of a type in an index; a longer one is none that a compiler wrote."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """When an event of a catalogue happens.

    Attributes:
        id: Its id.
        module: The namespace of its module: for d9d's own, the loop that triggers it.
        context: The full name of the class of its context.
        repeats: Whether it happens again and again in a run.
        fires_in_every_step: Whether it is part of every step, and not only of what happens between steps.
        phase: The phase that it belongs to.
        order: Which events a run may begin with, and which may follow which.
    """

    id: str
    module: str
    context: str
    repeats: bool
    fires_in_every_step: bool
    phase: str
    order: Mapping[str, Any] = dataclasses.field(repr=False)

    def never_after(self, others: Collection["Moment"]) -> bool:
        """Return whether this event can follow none of some other events in a run."""
        return self._is_ordered(others) and not any(self._reaches(other.id) for other in others)

    def always_before(self, others: Collection["Moment"]) -> bool:
        """Return whether none of some other events can happen before this one has happened for the first time.

        A run in which this event never happens does not count.
        """
        before = self._reachable(self.order.get("first", ()), avoiding={self.id})
        return self._is_ordered(others) and not any(
            other.id == self.id or (other.id in before and self._reaches(other.id)) for other in others
        )

    def may_come_first(self, others: Collection["Moment"]) -> bool:
        """Return whether this event may happen in a run that nothing aborts, before any of some other events."""
        first, followers = self.order.get("first", ()), self.order.get("followers", {})
        aborting = {event for event in first if any(event in each for each in followers.values())}
        before = self._reachable(first, avoiding={*aborting, *(other.id for other in others)})
        return self._is_ordered(others) and self.id in before

    def _is_ordered(self, others: Collection["Moment"]) -> bool:
        """Return whether all are events of one loop that have a place in its order."""
        followers = self.order.get("followers", {})
        return all(each.module == self.module and each.id in followers for each in (self, *others))

    def _reaches(self, other: str) -> bool:
        """Return whether this event may follow another, directly or not."""
        return self.id in self._reachable(self.order["followers"][other])

    def _reachable(self, starts: Collection[str], *, avoiding: Collection[str] = ()) -> set[str]:
        found, pending = set[str](), list(starts)
        after = self.order.get("after", {})
        while pending:
            event = pending.pop()
            if event not in found and event not in avoiding and after.get(event) not in avoiding:
                found.add(event)
                pending += self.order["followers"].get(event, ())
        return found


@dataclasses.dataclass(frozen=True)
class Catalogues:
    """All events and contexts that are declared in a catalogue.

    Attributes:
        moments: When each event happens, by the full name of its constant.
        fields: The types of the fields of each context, by the full name of its class.
        device_fields: The fields of each context whose values live on the device.
        problems: What could not be read, one sentence each.
        problem_in: What is wrong with an index, by the folder in which it is or should be.
        owners: The package of the catalogue that owns each namespace.
        digest: A hash of all indexes.
    """

    moments: Mapping[str, Moment]
    fields: Mapping[str, Mapping[str, str]]
    device_fields: Mapping[str, frozenset[str]]
    problems: tuple[str, ...]
    problem_in: Mapping[str, str]
    owners: Mapping[str, str]
    digest: str

    @functools.cached_property
    def by_constant(self) -> Mapping[str, str]:
        """The full name of each event of d9d, by its constant alone: packages re-export them."""
        return {name.rpartition(".")[2]: name for name in self.moments if name.startswith(f"{OWN}.")}

    @functools.cached_property
    def context_by_name(self) -> Mapping[str, str]:
        """The full name of each context of d9d, by the name of its class alone."""
        return {name.rpartition(".")[2]: name for name in self.fields if name.startswith(f"{OWN}.")}

    def resolve(self, name: str) -> str | None:
        """Return the full name of the event or context that a name stands for, if it is one."""
        if name in self.moments or name in self.fields:
            return name
        if name.startswith("d9d."):
            last = name.rpartition(".")[2]
            return self.by_constant.get(last) or self.context_by_name.get(last)
        return None


def read_catalogues(project: Path | None) -> Catalogues:
    """Read the indexes of d9d's own catalogue, of installed projects, and of the checked project.

    Args:
        project: The folder of the project's `pyproject.toml`, if it has one.
    """
    moments: dict[str, Moment] = {}
    fields: dict[str, Mapping[str, str]] = {}
    device: dict[str, frozenset[str]] = {}
    problems: list[str] = []
    problem_in: dict[str, str] = {}
    owners: dict[str, str] = {}
    digest = hashlib.sha256()
    for package, folder, catalogue in _packages(project, problems):
        num_problems = len(problems)
        digest.update(_text(folder / FILE_NAME).encode())
        content = _read(folder / FILE_NAME, package, problems)
        events, contexts = _entries(content, "events"), _entries(content, "contexts")
        if content:
            problem = _why_stale(package, folder, catalogue, {*events, *contexts}, _entries(content, "aliases"))
            problems += [problem] if problem else []
        if problems[num_problems:]:
            problem_in[os.path.realpath(folder)] = " ".join(problems[num_problems:])
        owners |= dict.fromkeys(_entries(content, "modules"), package)
        modules = {name: _with_order(name, module, events) for name, module in _entries(content, "modules").items()}
        for name, entry in events.items():
            moments[name] = moment_of(entry, modules)
        for name, status in _entries(content, "aliases").items():
            replaced = str(status.get("replaced_by", ""))
            if replaced in moments:
                moments[name] = moments[replaced]
        for name, entry in contexts.items():
            types = _entries(entry, "fields", of=object)
            fields[name] = {field: _type_of(found) for field, found in types.items()}
            device[name] = frozenset(
                field for field, found in types.items() if isinstance(found, dict) and found.get("device") is True
            ) | frozenset(_strings(entry.get("device_fields")))
    return Catalogues(moments, fields, device, tuple(problems), problem_in, owners, digest.hexdigest())


def _with_order(name: str, module: Mapping[str, Any], events: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what an index says of a module, with an order of events that is what it should be."""
    order = module.get("lifecycle")
    if not isinstance(order, dict):
        return {**module, "lifecycle": None}
    followers = _entries(order, "followers", of=list)
    after = {
        str(entry.get("id")): str(events[required].get("id"))
        for entry in events.values()
        if entry.get("module") == name and (required := str(entry.get("after"))) in events
    }
    lifecycle = {
        "first": _strings(order.get("first")),
        "followers": {event: _strings(found) for event, found in followers.items()},
        "after": after,
    }
    return {**module, "lifecycle": lifecycle}


def _why_stale(
    package: str, folder: Path, catalogue: Path | None, known: Collection[str], aliases: Collection[str]
) -> str | None:
    """Return why an index does not belong to the modules next to it, or to its catalogue; `None` if it does.

    The names that they define are compared, and not the times of the files, which a fresh clone does not keep.
    """
    remedy = "run d9d-catalogue generate" if catalogue else f"install {package} again"
    for module in sorted({name.rpartition(".")[0] for name in known}):
        path = folder.joinpath(*module.removeprefix(f"{package}.").split(".")).with_suffix(".py")
        text = _text(path)
        defined = {f"{module}.{one or other}" for one, other in _CONSTANT.findall(text)}
        own = {name for name in known if name.rpartition(".")[0] == module}
        if text and (differing := (own ^ defined) - set(aliases)):
            name = min(differing)
            lacking = path if name in own else "the index"
            return (
                f"{folder / FILE_NAME} and {path.name} do not match: {lacking} does not have "
                f"{name.rpartition('.')[2]}. To update it, {remedy}"
            )
    if catalogue is not None:
        constants = {name.rpartition(".")[2] for name in (*known, *aliases)}
        missing = set(_DECLARED.findall(_text(catalogue))) - constants
        if missing:
            return f"{folder / FILE_NAME} is older than {catalogue}: it lacks {min(missing)}. To update it, {remedy}"
    return None


def moment_of(entry: Mapping[str, Any], modules: Mapping[str, Mapping[str, Any]]) -> Moment:
    """Return when an event happens.

    Args:
        entry: What the index of its catalogue says about the event.
        modules: What the index says about each module of the catalogue, by its namespace.
    """
    module = modules.get(str(entry.get("module")), {})
    declared = module.get("phases")
    phases = [
        phase
        for phase in (declared if isinstance(declared, list) else ())
        if isinstance(phase, dict) and phase.get("name") == entry.get("phase")
    ]
    repeats = any(part.get("repeats") is True for part in (entry, *phases))
    order = module.get("lifecycle")
    return Moment(
        str(entry.get("id")),
        str(entry.get("module")),
        str(entry.get("context")),
        repeats,
        repeats and not any("around" in phase for phase in phases),
        str(entry.get("phase")),
        order if isinstance(order, dict) else {},
    )


def _type_of(field: object) -> str:
    text = str(field.get("type", "")) if isinstance(field, dict) else str(field)
    return text if len(text) <= _MAX_TYPE and "\0" not in text else "object"


def _strings(found: object) -> list[str]:
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _read(path: Path, package: str, problems: list[str]) -> Mapping[str, Any]:
    remedy = f"run d9d-catalogue generate, or install {package} again"
    try:
        content = json.loads(read_file(path))
    except FileNotFoundError:
        problems.append(f"{package} has no {FILE_NAME} in {path.parent}: {remedy}")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"cannot read {path}: {error}. To write it again, {remedy}")
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("events"), dict):
        problems.append(f"{path} is not an index of events: {remedy}")
        return {}
    version = content.get("version", _VERSION)
    if version != _VERSION:
        problems.append(
            f"{path} has the format {str(version)[:20]}, and this version of d9d reads {_VERSION}: install the version "
            f"of d9d that generated it, or {remedy}"
        )
        return {}
    return content


def _entries(content: Mapping[str, Any], key: str, of: type = dict) -> dict[str, Any]:
    entries = content.get(key)
    named = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in named if isinstance(entry, of)}


def _packages(project: Path | None, problems: list[str]) -> Iterator[tuple[str, Path, Path | None]]:
    """Yield the packages of catalogues, each with its folder, and its catalogue; what cannot be found is a problem."""
    roots = [Path(folder or ".") for folder in sys.path]
    here = Path(__file__).resolve().parents[1]
    own = OWN.split(".")
    folders = [root.joinpath(*own) for root in (here, here.parent, *roots)]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        problems.append("d9d is not installed next to d9d_check, so its events are not known: install d9d-hooks")
    else:
        yield OWN, found, None
    for package in dict.fromkeys(_installed(roots)):
        if package != OWN:
            yield from _find(package, roots, problems)
    for catalogue in read_settings(project).catalogues:
        package = _package_of(catalogue, problems)
        if package and package != OWN and project is not None:
            yield from _find(package, [project, project / "src", *roots], problems, catalogue)


def _package_of(catalogue: Path, problems: list[str]) -> str:
    """Return the package that a catalogue is compiled into; an empty text, and a problem, if it names none."""
    try:
        text = read_file(catalogue).decode()
    except (OSError, ValueError) as error:
        problems.append(
            f"pyproject.toml names the catalogue {catalogue}, which cannot be read: {error}. Correct catalogues in "
            "[tool.d9d]"
        )
        return ""
    line = _PACKAGE.search(text)
    if line is None:
        problems.append(f"{catalogue} names no package: give it a line package: NAME, and run d9d-catalogue generate")
    return line[1] if line else ""


def _find(
    package: str, roots: Iterable[Path], problems: list[str], catalogue: Path | None = None
) -> Iterator[tuple[str, Path, Path | None]]:
    """Yield a package with the first folder that exists for it."""
    if _NAME.fullmatch(package) is None:
        problems.append(f"{package!r} is named as the package of a catalogue, but is not the name of a package")
        return
    folders = (root.joinpath(*package.split(".")) for root in roots)
    folder = next((folder for folder in folders if os.path.isdir(folder)), None)  # noqa: PTH112 -- a name of any length
    if folder is None:
        remedy = "run d9d-catalogue generate" if catalogue else "install the package"
        problems.append(f"the catalogue of {package} cannot be found, so its events are not known: {remedy}")
    else:
        yield package, folder, catalogue


def _installed(folders: Iterable[Path]) -> Iterator[str]:
    """Yield the packages that entry points name; importlib.metadata would take many times as long."""
    for folder in folders:
        for path in sorted(folder.glob("*.dist-info/entry_points.txt")):
            _, found, entries = _text(path).partition(_GROUP)
            for line in entries.partition("\n[")[0].splitlines() if found else ():
                _, equals, package = line.partition("=")
                if equals:
                    yield package.strip()


@dataclasses.dataclass(frozen=True)
class Settings:
    """The table `[tool.d9d]` of a project.

    Attributes:
        catalogues: The catalogues that it names.
        sources: The files and folders of the program that it names.
        problems: What is wrong with it, one sentence each.
    """

    catalogues: tuple[Path, ...] = ()
    sources: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()


def read_settings(project: Path | None) -> Settings:
    """Return the settings of a project; none if there is no project."""
    if project is None:
        return Settings()
    path = project / "pyproject.toml"
    try:
        settings: Any = tomllib.loads(read_file(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        return Settings(problems=(f"cannot read {path}: {reason}. Its settings decide what is checked: correct it",))
    for key in ("tool", "d9d"):
        settings = settings.get(key, {}) if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        return Settings(problems=(f"tool.d9d in {path} is not a table: write [tool.d9d]",))
    problems = [
        f"[tool.d9d] of {path} has a key {key!r}, which turns nothing on: the keys are {', '.join(_KEYS)}"
        for key in settings
        if key not in _KEYS
    ]
    catalogues, sources = (_paths(project, settings, key, problems) for key in ("catalogues", "sources"))
    there = [source for source in sources if os.path.exists(source)]  # noqa: PTH110 -- a name of any length
    missing = [source for source in sources if source not in there]
    problems += [f"sources in [tool.d9d] of {path} names {each}, which does not exist: correct it" for each in missing]
    return Settings(tuple(catalogues), tuple(there), tuple(problems))


def _paths(project: Path, settings: Mapping[str, Any], key: str, problems: list[str]) -> list[Path]:
    found = settings.get(key, [])
    names = _strings(found)
    if not isinstance(found, list) or len(names) < len(found) or any("\0" in name for name in names):
        problems.append(
            f'{key} in [tool.d9d] of {project / "pyproject.toml"} is not a list of paths: write {key} = ["..."]'
        )
        return []
    return [project / name for name in names]


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except (OSError, ValueError):
        return ""
