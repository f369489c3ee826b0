"""What an index says about the order of the events of one loop."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from mypy.nodes import MypyFile

from d9d.mypy.index import Indexes


@dataclasses.dataclass(frozen=True)
class Moment:
    """One event in the runs of its loop.

    Attributes:
        id: The id of the event.
        fires_in_every_step: Whether it happens again and again.
        module: The catalogue's module that declares it, and so its loop.
        lifecycle: Which events a run of the loop may begin with, and which may follow which.
    """

    id: str
    fires_in_every_step: bool
    module: str
    lifecycle: Mapping[str, Any]

    @classmethod
    def of(cls, full_name: str, modules: Mapping[str, MypyFile], indexes: Indexes) -> "Moment | None":
        """Find an event in the index of its catalogue.

        Args:
            full_name: The full name of its constant.
            modules: All modules of this run.
            indexes: The indexes of all catalogues.

        Returns:
            What is known; nothing of an event without a catalogue.
        """
        defined_in = modules.get(full_name.rpartition(".")[0])
        index = None if defined_in is None else indexes.beside(defined_in.path)
        entry = None if index is None else index.event(full_name)
        if index is None or entry is None:
            return None
        module = index.modules.get(str(entry.get("module")), {})
        phases = [phase for phase in module.get("phases", ()) if phase.get("name") == entry.get("phase")]
        repeats = any(part.get("repeats") is True for part in (entry, *phases))
        return cls(str(entry.get("id")), repeats, str(entry.get("module")), module.get("lifecycle", {}))

    def never_after(self, others: Collection["Moment"]) -> bool:
        """Say whether no run shows the event, be it once or again, behind one of some others."""
        return self._is_ordered(others) and not any(self._reaches(other.id) for other in others)

    def always_before(self, others: Collection["Moment"]) -> bool:
        """Say whether no run shows one of some other events before this one has happened for the first time.

        A run that never shows this event does not count.
        """
        before = self._reachable(self.lifecycle.get("first", ()), avoiding=self.id)
        return self._is_ordered(others) and not any(
            other.id == self.id or (other.id in before and self._reaches(other.id)) for other in others
        )

    def _is_ordered(self, others: Collection["Moment"]) -> bool:
        """Say whether all are events of one loop that have a place in its order."""
        followers = self.lifecycle.get("followers", {})
        return all(each.module == self.module and each.id in followers for each in (self, *others))

    def _reaches(self, other: str) -> bool:
        """Say whether this event may follow another, be there anything between."""
        return self.id in self._reachable(self.lifecycle["followers"][other])

    def _reachable(self, starts: Collection[str], *, avoiding: str = "") -> set[str]:
        found, pending = set[str](), list(starts)
        while pending:
            event = pending.pop()
            if event not in found and event != avoiding:
                found.add(event)
                pending += self.lifecycle["followers"].get(event, ())
        return found
