"""Attributes that a handler reads before the handler of a later event assigns them."""

import dataclasses
from collections.abc import Mapping
from typing import Final, TypeAlias

from d9d_check.catalogues import Moment
from d9d_check.facts import Entry, Facts, Frame, Watcher
from d9d_check.framework import TASKS
from d9d_check.values import NONE, ClassDefinition, EventValue, Instance, Site, Values

_PLAIN: Final = frozenset({*TASKS, "builtins.object", "abc.ABC", "typing.Protocol", "typing.Generic"})


@dataclasses.dataclass(frozen=True)
class _Read:
    entry: Entry
    name: str
    site: Site


_Reads: TypeAlias = dict[ClassDefinition, dict[tuple[Entry, str], _Read]]


class Lifecycle(Watcher):
    """Sees which attributes are read and assigned in which run."""

    def __init__(self) -> None:
        super().__init__()
        self._reads: _Reads = {}
        self._demands: _Reads = {}
        self._writes: dict[tuple[ClassDefinition, str], set[Entry]] = {}
        self._resets: dict[tuple[ClassDefinition, str], set[Entry]] = {}
        self._elsewhere: set[str] = set()
        self._written: set[tuple[Entry, str]] = set()

    def read(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Keep the first certain read in a run of an attribute that this run has not assigned."""
        self._keep(self._reads, owner, name, frame, site)

    def demanded(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Keep that a run needs an attribute that is not `None`."""
        self._keep(self._demands, owner, name, frame, site)

    def _keep(self, reads: _Reads, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        entry = frame.entry
        is_first = owner.definition is entry.owner and owner.site is None and (entry, name) not in self._written
        if is_first and not frame.guards and not frame.num_doubts:
            of_class = reads.setdefault(owner.definition, {})
            of_class.setdefault((entry, name), _Read(entry, name, site))

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:  # noqa: ARG002 -- the signature of Watcher
        """Keep which run assigns an attribute, and which one assigns `None`."""
        key = (owner.definition, name)
        (self._resets if values == NONE else self._writes).setdefault(key, set()).add(frame.entry)
        if owner.definition is frame.entry.owner:
            self._written.add((frame.entry, name))

    def wrote_elsewhere(self, name: str) -> None:
        """Keep the name: the object may be one of ours."""
        self._elsewhere.add(name)

    def report(self, facts: Facts, moments: Mapping[str, Moment]) -> None:
        """Report attributes that are read before they are assigned."""
        for reads, is_demand in ((self._reads, False), (self._demands, True)):
            for definition, of_class in reads.items():
                if definition.is_opaque or definition not in facts.subscribers or not definition.outside <= _PLAIN:
                    continue
                reported: set[str] = set()
                for (entry, name), read in of_class.items():
                    writers = self._writers(definition, entry, name, is_demand=is_demand)
                    if name not in reported and writers and self._is_early(entry, writers, moments):
                        reported.add(name)
                        self._report(read, writers, facts, is_demand=is_demand)

    def _writers(self, definition: ClassDefinition, entry: Entry, name: str, *, is_demand: bool) -> set[Entry]:
        """Return the handlers that assign an attribute; none if anything else may assign it."""
        key = (definition, name)
        if name in self._elsewhere or self._is_given(definition, name, is_demand=is_demand):
            return set()
        for other, attribute in self._writes:
            # A subclass may assign it, and a class may assign attributes whose names are not known.
            is_related = definition in other.ancestry or other in definition.ancestry
            if is_related and ((attribute == name and definition in other.ancestry[1:]) or not attribute):
                return set()
        writers = self._writes.get(key, set()) | (set() if is_demand else self._resets.get(key, set()))
        only_handlers = all(each.kind == "handler" and each.owner is definition for each in writers)
        return writers - {entry} if only_handlers else set()

    @staticmethod
    def _is_given(definition: ClassDefinition, name: str, *, is_demand: bool) -> bool:
        """Return whether an attribute exists from the beginning, or has a value other than `None`."""
        is_dataclass = any("dataclass" in each.decorators for each in definition.ancestry)
        fields = {field for each in definition.ancestry for field, _, _ in each.fields} if is_dataclass else set()
        member = definition.find(name)
        exists = member is not None and not (is_demand and member[1] == NONE)
        dynamic = ("__getattr__", "__getattribute__", "__slots__", "__new__", "__setattr__")
        return name in fields or exists or any(definition.find(each) is not None for each in dynamic)

    @staticmethod
    def _is_early(entry: Entry, writers: set[Entry], moments: Mapping[str, Moment]) -> bool:
        later = [_moment(event, moments) for each in writers for event in each.events]
        known = [moment for moment in later if moment is not None]
        if not known or len(known) < len(later):
            return False
        if entry.kind == "method" and entry.name == "create_metrics":  # called directly after the first event
            return all(moment.id not in moment.order.get("first", ()) for moment in known)
        now = [_moment(event, moments) for event in entry.events]
        return (
            entry.kind == "handler"
            and not entry.is_filtered
            and bool(now)
            and all(moment is not None and moment.order and moment.always_before(known) for moment in now)
        )

    @staticmethod
    def _report(read: _Read, writers: set[Entry], facts: Facts, *, is_demand: bool) -> None:
        entry = read.entry
        events = " and ".join(sorted(map(str, entry.events)))
        subject = f'Handler "{entry.name}" of {events}' if entry.events else f'"{entry.name}"'
        names = sorted(f'"{each.name}" of {" and ".join(sorted(map(str, each.events)))}' for each in writers)
        facts.report(
            "d9d-order",
            f'{subject} {"needs" if is_demand else "reads"} "self.{read.name}", which is assigned only later in the '
            f'run, by handler {" and ".join(names)}: assign it in "__init__" too, or in the handler of an earlier '
            "event",
            read.site,
        )


def _moment(event: EventValue, moments: Mapping[str, Moment]) -> Moment | None:
    return moments.get(event.name)
