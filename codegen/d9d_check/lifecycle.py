"""Attributes that are read before a later event assigns them, and subscriptions after the run."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from d9d_check.catalogues import Moment
from d9d_check.facts import Call, Entry, Facts, Frame, Watcher
from d9d_check.framework import TASKS, canonical, is_task
from d9d_check.lower import Node
from d9d_check.syntax import last_name
from d9d_check.values import (
    NONE,
    ClassDefinition,
    Definition,
    EventValue,
    Instance,
    Site,
    Typed,
    Value,
    Values,
    immutable,
)

_PLAIN: Final = frozenset({*TASKS, "builtins.object", "abc.ABC", "typing.Protocol", "typing.Generic"})
_RUNS: Final = {
    "Trainer": frozenset({"train", "steps", "evaluate", "sleep", "wake"}),
    "Inference": frozenset({"infer"}),
}
"""The methods that trigger events, by class."""
_TO_THE_END: Final = frozenset({"train", "infer"})
_CALLED_AFTER: Final = {
    "compute_loss": {"train": "train.forward_backward.pre"},
    "build_forward_inputs": {"train": "train.forward_backward.pre", "inference": "inference.forward.pre"},
    "process_outputs": {"inference": "inference.forward.pre"},
    "state_dict": {"train": "train.checkpoint.start", "inference": "inference.checkpoint.start"},
}
"""Methods of tasks: by loop, the event after which it calls them for the first time, before any event that follows."""


@immutable
class _Read:
    entry: Entry
    owner: Instance
    name: str
    site: Site


_Key: TypeAlias = tuple[ClassDefinition, str]


class Lifecycle(Watcher):
    """Sees which attributes are read and assigned in which run."""

    def __init__(self) -> None:
        super().__init__()
        self._reads: dict[tuple[ClassDefinition, Entry, str], _Read] = {}
        self._demands: dict[tuple[ClassDefinition, Entry, str], _Read] = {}
        self._writes: dict[_Key, set[Entry]] = {}
        self._resets: dict[_Key, set[Entry]] = {}
        self._writing: dict[_Key, set[Definition]] = {}
        self._elsewhere: set[str] = set()
        self._written: set[tuple[ClassDefinition, Entry, str]] = set()
        self._runs: list[tuple[Entry, Site, bool]] = []

    def method_call(self, owner: Value, name: str, call: Call) -> Values | None:
        """Keep where a loop runs, and whether it certainly runs to its end."""
        if isinstance(owner, Typed) and owner.name.startswith("d9d.") and name in _RUNS.get(canonical(owner.name), ()):
            frame = call.frame
            is_certain = name in _TO_THE_END and not frame.guards and not frame.num_doubts
            self._runs.append((frame.entry, call.site, is_certain and frame.depth <= 1))
        return None

    def read(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Keep the first certain read in a run of an attribute that this run has not assigned."""
        self._keep(self._reads, owner, name, frame, site)

    def demanded(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Keep that a run needs an attribute that is not `None`."""
        self._keep(self._demands, owner, name, frame, site)

    def _keep(
        self,
        reads: dict[tuple[ClassDefinition, Entry, str], _Read],
        owner: Instance,
        name: str,
        frame: Frame,
        site: Site,
    ) -> None:
        if frame.guards or frame.num_doubts:
            return
        entry = frame.entry
        # An object that is not the run's own and not created in view may have been filled by anybody.
        is_known = owner.definition is entry.owner if owner.site is None else True
        key = (owner.definition, entry, name)
        if is_known and key not in self._written:
            reads.setdefault(key, _Read(entry, owner, name, site))

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:  # noqa: ARG002 -- the signature of Watcher
        """Keep which run assigns an attribute, and which one assigns `None`."""
        key = (owner.definition, name)
        (self._resets if values == NONE else self._writes).setdefault(key, set()).add(frame.entry)
        self._written.add((owner.definition, frame.entry, name))
        if frame.function is not None:
            self._writing.setdefault(key, set()).add(frame.function.definition)

    def wrote_elsewhere(self, name: str, values: Values) -> None:  # noqa: ARG002 -- the signature of Watcher
        """Keep the name: the object may be one of ours."""
        self._elsewhere.add(name)

    def report(self, facts: Facts, moments: Mapping[str, Moment]) -> None:
        """Report attributes that are read before they are assigned, and subscriptions after the run."""
        reported: set[_Key] = set()
        for reads, is_demand in ((self._reads, False), (self._demands, True)):
            for (definition, entry, name), read in reads.items():
                key = (definition, name)
                if key in reported or not self._is_followed(read, facts):
                    continue
                writers = self._writers(read, facts, is_demand=is_demand)
                if writers and _is_early(entry, writers, moments):
                    reported.add(key)
                    when = "is assigned only later in the run"
                    _report(read, writers, facts, when, is_demand=is_demand)
                elif writers and _may_be_first(entry, writers, moments):
                    reported.add(key)
                    when = "is assigned only when an event has happened that need not happen before"
                    _report(read, writers, facts, when, is_demand=is_demand)
        self._report_late(facts)

    @staticmethod
    def _is_followed(read: _Read, facts: Facts) -> bool:
        """Return whether everything that may assign attributes of an object is in view."""
        definition = read.owner.definition
        if definition.is_opaque or not definition.outside <= _PLAIN:
            return False
        if read.owner.site is None:
            return definition in facts.subscribers
        return read.owner not in facts.escaped and not any(
            isinstance(each, Instance) and each.definition is definition for each in facts.escaped
        )

    def _writers(self, read: _Read, facts: Facts, *, is_demand: bool) -> set[Entry]:
        """Return the handlers that assign an attribute; none if anything else may assign it."""
        definition, name = read.owner.definition, read.name
        key = (definition, name)
        if name in self._elsewhere or _is_given(definition, name, is_demand=is_demand):
            return set()
        for other, attribute in self._writes:
            # A subclass may assign it, and a class may assign attributes whose names are not known.
            is_related = definition in other.ancestry or other in definition.ancestry
            if is_related and ((attribute == name and definition in other.ancestry[1:]) or not attribute):
                return set()
        writers = self._writes.get(key, set()) | (set() if is_demand else self._resets.get(key, set()))
        if not all(each.kind == "handler" for each in writers) or not self._are_all_seen(key, facts):
            return set()
        return writers - {read.entry}

    def _are_all_seen(self, key: _Key, facts: Facts) -> bool:
        """Return whether each function that assigns an attribute of this name has been followed.

        Only what leads to a bus is followed everywhere; others may assign the attribute unseen.
        """
        definition, name = key
        if definition in facts.subscribers:
            return True
        seen = {function for (_, attribute), found in self._writing.items() if attribute == name for function in found}
        return all(
            function.definition in seen
            for function, _ in facts.functions
            if name in function.definition.facts["assigns"]
        )

    def _report_late(self, facts: Facts) -> None:
        """Report what is subscribed when the loop has run, and does not run again."""
        for each in facts.registrations:
            runs = [run for run in self._runs if run[0] is each.entry and run[1].module == each.site.module]
            is_over = bool(runs) and max(site.line for _, site, _ in runs) < each.site.line
            is_certain = any(certain for _, _, certain in runs) and not each.guards and each.depth <= 1
            if each.bus.is_configured and is_over and is_certain:
                events = " and ".join(sorted(map(str, each.events))) or "This event"
                facts.report(
                    "d9d-late",
                    f"{events} is over when the run in line {runs[-1][1].line} has ended, so the handler is never "
                    "called: subscribe it before the run",
                    each.site,
                )


def _is_given(definition: ClassDefinition, name: str, *, is_demand: bool) -> bool:
    """Return whether an attribute exists from the beginning, or has a value other than `None`."""
    is_dataclass = any("dataclass" in each.decorators for each in definition.ancestry)
    member = definition.find(name)
    for each in definition.ancestry if is_dataclass else ():
        for field, _, value in each.fields:
            if field == name and _is_left_out(value):
                member = None  # the decorator removes it from the class
            elif field == name:
                # What is not given to the constructor is the default, and `None` is what a demand is about.
                return not (is_demand and value == ["constant", None, True])
    exists = member is not None and not (is_demand and member[1] == NONE)
    dynamic = ("__getattr__", "__getattribute__", "__slots__", "__new__", "__setattr__")
    return exists or any(definition.find(each) is not None for each in dynamic)


def _is_left_out(value: Node | None) -> bool:
    """Return whether a field of a dataclass is no argument of its constructor, and has no default."""
    if value is None or value[0] != "call" or last_name(value[1]) != "field":
        return False
    given = dict(value[3])
    return given.get("init", ())[:2] == ["constant", False] and given.keys().isdisjoint({"default", "default_factory"})


def _is_early(entry: Entry, writers: Iterable[Entry], moments: Mapping[str, Moment]) -> bool:
    later = [_moment(event, moments) for each in writers for event in each.events]
    known = [moment for moment in later if moment is not None]
    if not known or len(known) < len(later):
        return False
    if entry.kind == "method":
        return entry.owner is not None and _is_called_before(entry.name, entry.owner, known, moments)
    now = [_moment(event, moments) for event in entry.events]
    return (
        entry.kind == "handler"
        and not entry.counts_steps
        and any(moment is not None and moment.order and moment.always_before(known) for moment in now)
    )


def _may_be_first(entry: Entry, writers: Iterable[Entry], moments: Mapping[str, Moment]) -> bool:
    """Return whether a handler may be called before any of those that assign something: not all events must happen."""
    before = [_moment(event, moments) for each in writers for event in each.events]
    now = [_moment(event, moments) for event in entry.events]
    known = [moment for moment in before if moment is not None]
    return (
        entry.kind == "handler"
        and not entry.counts_steps
        and bool(known)
        and len(known) == len(before)
        and any(moment is not None and moment.order and moment.may_come_first(known) for moment in now)
    )


def _is_called_before(name: str, owner: ClassDefinition, later: list[Moment], moments: Mapping[str, Moment]) -> bool:
    """Return whether a loop calls a method of a task before any of some events."""
    if name == "create_metrics":  # called directly after the first event
        return all(moment.id not in moment.order.get("first", ()) for moment in later)
    event = _CALLED_AFTER.get(name, {}).get(later[0].module)
    if event is None or not (is_task(owner) or name == "state_dict"):
        return False
    before = next((moment for moment in moments.values() if moment.id == event), None)
    return before is not None and before.always_before(later)


def _report(read: _Read, writers: set[Entry], facts: Facts, when: str, *, is_demand: bool) -> None:
    entry = read.entry
    events = " and ".join(sorted(map(str, entry.events)))
    subject = f'Handler "{entry.name}" of {events}' if entry.events else f'"{entry.name}"'
    names = sorted(f'"{each.name}" of {" and ".join(sorted(map(str, each.events)))}' for each in writers)
    is_own = read.owner.definition is entry.owner
    attribute = f'"self.{read.name}"' if is_own else f'"{read.name}" of "{read.owner.definition.name}"'
    if is_demand:
        facts.report(
            "d9d-order",
            f"{subject} needs {attribute}, which is None until then and {when}, by handler {' and '.join(names)}: test "
            "for None first, or assign it in the handler of an earlier event",
            read.site,
        )
        return
    facts.report(
        "d9d-order",
        f"{subject} reads {attribute}, which {when}, "
        f'by handler {" and ".join(names)}: assign it in "__init__" too, or in the handler of an earlier '
        "event",
        read.site,
    )


def _moment(event: EventValue, moments: Mapping[str, Moment]) -> Moment | None:
    return moments.get(event.name)
