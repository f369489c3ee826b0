"""The declared order of events, by the full paths of their constants."""

from d9d_codegen.lifecycle import Lifecycle
from d9d_codegen.model import Catalogue, EventSpec, Module
from d9d_codegen.pair import other_sides


class Order:
    """What a catalogue says of its events that source can be held against.

    Args:
        catalogue: A catalogue without problems.

    Attributes:
        events: Every event by its full path, aliases of others too, in the order of the catalogue.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.events: dict[str, EventSpec] = {}
        self._position: dict[str, tuple[str, int]] = {}
        self._followers: dict[str, frozenset[str]] = {}
        self._other_side: dict[str, str] = {}
        self._stands_for: dict[str, str] = {}
        for module in catalogue.modules:
            self._enter(module, f"{catalogue.package}.{module.name}")

    def _enter(self, module: Module, prefix: str) -> None:
        paths = {str(event.id): f"{prefix}.{event.name}" for event in module.own_events}
        lifecycle = Lifecycle.of(module)
        for number, event in enumerate(module.events):
            path = f"{prefix}.{event.name}"
            self.events[path] = event
            if event.status.replaced_by:
                self._stands_for[path] = f"{prefix}.{event.status.replaced_by}"
            elif event.id not in lifecycle.anytime:
                self._position[path] = (prefix, number)
                self._followers[path] = frozenset(paths[other] for other in lifecycle.followers.get(event.id, ()))
        for event_id, other in other_sides(module).items():
            self._other_side[paths[event_id]] = f"{prefix}.{other.name}"

    def canonical(self, path: str) -> str:
        """Return the event that a deprecated one is an alias of; any other event itself."""
        return self._stands_for.get(path, path)

    def is_alias(self, path: str) -> bool:
        """Return whether an event is but an old name of another."""
        return path in self._stands_for

    def module_of(self, path: str) -> str | None:
        """Return the module in whose order an event has a place; nothing where it may fall anywhere."""
        position = self._position.get(path)
        return position[0] if position else None

    def allows(self, before: str, after: str) -> bool:
        """Return whether an event of a module may come after another, with others between them or without."""
        return self._position[after] > self._position[before] or after in self._followers[before]

    def other_side(self, path: str) -> str | None:
        """Return the other side of the moment whose side an event is, if it is one."""
        return self._other_side.get(path)
