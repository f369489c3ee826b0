"""The events that `catalogue.yaml` declares for a run, and the recording of those that a run triggers."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from d9d.loop.event import Event, EventBus
from d9d_codegen.catalogue import Module
from d9d_codegen.lifecycle import Lifecycle
from d9d_codegen.lint import lint_file

CATALOGUE = Path(__file__).parents[2] / "catalogue.yaml"


def declared_module(name: str) -> Module:
    """Read one module of the catalogue."""
    return next(module for module in lint_file(CATALOGUE).modules if module.name == name)


def declared_ids(name: str) -> list[str]:
    """Return the ids of the events of a module, in the order of the catalogue."""
    return [str(event.id) for event in declared_module(name).events]


def declared_run(name: str, *, num_steps: int) -> list[str]:
    """Return the ids that every run to the last of some steps triggers, in order: those that are not optional."""
    module = declared_module(name)
    ids: list[str] = []
    for phase in module.phases:
        if phase.around or phase.aborts or (phase.optional and phase.name not in ("step", "finished")):
            continue
        events = [str(event.id) for event in module.events if event.phase == phase.name and not event.optional]
        ids += events * (num_steps if phase.repeats else 1)
    return ids


def without_optional(name: str, ids: list[str]) -> list[str]:
    """Return the events of a trace that every whole run triggers."""
    required = {*declared_run(name, num_steps=1)}
    return [event_id for event_id in ids if event_id in required]


def violation(name: str, ids: list[str], *, complete: bool) -> str | None:
    """Return where a trace first violates the lifecycle that the catalogue declares, or `None`."""
    return Lifecycle.of(declared_module(name)).first_violation(ids, complete=complete)


def events_of(module: ModuleType) -> list[Event[Any]]:
    """Return all events of a generated module."""
    return [event for name in module.__all__ if isinstance(event := getattr(module, name), Event)]


def record(bus: EventBus, module: ModuleType, trace: list[str], *, is_configured: bool = False) -> None:
    """Append the id of each event of a module to `trace` whenever it is triggered.

    Args:
        bus: The bus of a run.
        module: The events.
        trace: The ids.
        is_configured: Whether the events of the configuration have passed.
    """
    for event in events_of(module):
        if not (is_configured and ".configuration." in event.id):
            bus.subscribe(event, _noting(event.id, trace))


def _noting(event_id: str, trace: list[str]) -> Callable[[object], None]:
    return lambda ctx: trace.append(event_id)
