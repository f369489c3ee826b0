"""The events of catalogues, from the index that the catalogue's compiler writes next to the modules of each.

Nothing is imported and no YAML is parsed: packages are found on the path of Python, in entry points, and in the
settings of the project.
"""

import dataclasses
import functools
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

FILE_NAME: Final = "index.json"
OWN: Final = "d9d.loop.event.catalogue"
_GROUP: Final = "[d9d.catalogues]"  # the entry points in which an installed project names its catalogues
_PACKAGE: Final = re.compile(r"""^package:[ \t]*["']?([\w.]+)""", re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


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
        before = self._reachable(self.order.get("first", ()), avoiding=self.id)
        return self._is_ordered(others) and not any(
            other.id == self.id or (other.id in before and self._reaches(other.id)) for other in others
        )

    def _is_ordered(self, others: Collection["Moment"]) -> bool:
        """Return whether all are events of one loop that have a place in its order."""
        followers = self.order.get("followers", {})
        return all(each.module == self.module and each.id in followers for each in (self, *others))

    def _reaches(self, other: str) -> bool:
        """Return whether this event may follow another, directly or not."""
        return self.id in self._reachable(self.order["followers"][other])

    def _reachable(self, starts: Collection[str], *, avoiding: str = "") -> set[str]:
        found, pending = set[str](), list(starts)
        while pending:
            event = pending.pop()
            if event not in found and event != avoiding:
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
        digest: A hash of all indexes.
    """

    moments: Mapping[str, Moment]
    fields: Mapping[str, Mapping[str, str]]
    device_fields: Mapping[str, frozenset[str]]
    problems: tuple[str, ...]
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
    digest = hashlib.sha256()
    for package, folder in _packages(project, problems):
        digest.update(_text(folder / FILE_NAME).encode())
        content = _read(folder / FILE_NAME, package, problems)
        modules = _entries(content, "modules")
        for name, entry in _entries(content, "events").items():
            moments[name] = moment_of(entry, modules)
        for name, status in _entries(content, "aliases").items():
            replaced = str(status.get("replaced_by", ""))
            if replaced in moments:
                moments[name] = moments[replaced]
        for name, entry in _entries(content, "contexts").items():
            types = _entries(entry, "fields", of=object)
            fields[name] = {field: _type_of(found) for field, found in types.items()}
            device[name] = frozenset(
                field for field, found in types.items() if isinstance(found, dict) and found.get("device") is True
            ) | frozenset(field for field in entry.get("device_fields") or () if isinstance(field, str))
    return Catalogues(moments, fields, device, tuple(problems), digest.hexdigest())


def moment_of(entry: Mapping[str, Any], modules: Mapping[str, Mapping[str, Any]]) -> Moment:
    """Return when an event happens.

    Args:
        entry: What the index of its catalogue says about the event.
        modules: What the index says about each module of the catalogue, by its namespace.
    """
    module = modules.get(str(entry.get("module")), {})
    phases = [
        phase
        for phase in module.get("phases") or ()
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
    return str(field.get("type", "")) if isinstance(field, dict) else str(field)


def _read(path: Path, package: str, problems: list[str]) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        problems.append(
            f"{package} has no {FILE_NAME} in {path.parent}: run d9d-catalogue generate, or install it again"
        )
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"cannot read {path}: {error}. Run d9d-catalogue generate, or install {package} again")
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("events"), dict):
        problems.append(f"{path} is not an index of events: run d9d-catalogue generate")
        return {}
    return content


def _entries(content: Mapping[str, Any], key: str, of: type = dict) -> dict[str, Any]:
    entries = content.get(key)
    named = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in named if isinstance(entry, of)}


def _packages(project: Path | None, problems: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield the packages of catalogues, each with its folder; what cannot be found is a problem."""
    roots = [Path(folder or ".") for folder in sys.path]
    here = Path(__file__).resolve().parents[1]
    own = OWN.split(".")
    folders = [root.joinpath(*own) for root in (here, here.parent, *roots)]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        problems.append("d9d is not installed next to d9d_check, so its events are not known: install d9d-hooks")
    else:
        yield OWN, found
    for package in dict.fromkeys(_installed(roots)):
        if package != OWN:
            yield from _find(package, roots, problems)
    for catalogue in _in_settings(project):
        line = _PACKAGE.search(_text(catalogue))
        if line is not None and line[1] != OWN and project is not None:
            yield from _find(line[1], [project, project / "src", *roots], problems)


def _find(package: str, roots: Iterable[Path], problems: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield a package with the first folder that exists for it."""
    if _NAME.fullmatch(package) is None:
        problems.append(f"{package!r} is named as the package of a catalogue, but is not the name of a package")
        return
    folders = (root.joinpath(*package.split(".")) for root in roots)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        problems.append(f"the catalogue of {package} cannot be found, so its events are not known: install the package")
    else:
        yield package, folder


def _installed(folders: Iterable[Path]) -> Iterator[str]:
    """Yield the packages that entry points name; importlib.metadata would take many times as long."""
    for folder in folders:
        for path in sorted(folder.glob("*.dist-info/entry_points.txt")):
            _, found, entries = _text(path).partition(_GROUP)
            for line in entries.partition("\n[")[0].splitlines() if found else ():
                _, equals, package = line.partition("=")
                if equals:
                    yield package.strip()


def _in_settings(project: Path | None) -> list[Path]:
    """Return the catalogues that the settings of the project name."""
    if project is None:
        return []
    return [project / name for name in strings_in(read_settings(project), "catalogues")]


def read_settings(project: Path) -> Mapping[str, Any]:
    """Return the table `[tool.d9d]` of a project; an empty one if its settings cannot be read."""
    try:
        settings: Any = tomllib.loads(_text(project / "pyproject.toml"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    for key in ("tool", "d9d"):
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}


def strings_in(settings: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of strings in settings; an empty one for anything else."""
    found = settings.get(key)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
