"""A missing trigger, or two swapped triggers, in a loop are reported with the name of the event.

`d9d-catalogue coverage` finds most of these mistakes in the source, see `tests/codegen/test_coverage.py`; a recorded
run, as in `test_trace_order.py`, finds all of them. `make check` does both. The sources of the loops name events by
their constants, so patching these changes the event that is triggered there.
"""

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from declared import declared_ids, declared_run, events_of, violation

from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import Event
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import inference as inference_run
from d9d.loop.run import training as training_run

from .test_trace_order import name_of, traced

# Events that nobody records. The loops read the namespace of their events, so it is theirs.
UNHEARD: dict[ModuleType, Event[Any]] = {
    train: Event(id="train.unheard"),  # type: ignore[d9d-event-id]
    inference: Event(id="inference.unheard"),  # type: ignore[d9d-event-id]
}
SOURCES = {train: training_run, inference: inference_run}
# What no run does that has neither reports nor evaluations, resumes from nothing, keeps its state on the device, and
# does not fail.
UNSEEN = ("report.ready", "evaluation.", "checkpoint.loaded", "sleep.", "wake.", "failed")
Named = tuple[ModuleType, str]


def triggered(loop: ModuleType) -> list[Named]:
    """Return the constants of a loop's events that the runs of these tests trigger, in the declared order."""
    constants = {getattr(loop, name).id: name for name in loop.__all__ if isinstance(getattr(loop, name), Event)}
    prefix = f"{name_of(loop)}."
    ids = [each for each in declared_ids(name_of(loop)) if not each.removeprefix(prefix).startswith(UNSEEN)]
    return [(loop, constants[event_id]) for event_id in ids]


def required(loop: ModuleType) -> list[Named]:
    """Return the constants of the events that every run triggers, stopped runs included."""
    ids = {*declared_run(name_of(loop), num_steps=1)} - {f"{name_of(loop)}.finished"}
    return [(loop, name) for loop, name in triggered(loop) if getattr(loop, name).id in ids]


def replace(monkeypatch: pytest.MonkeyPatch, loop: ModuleType, events: dict[str, Event[object]]) -> None:
    """Let constants stand for other events in the source of a loop, and in the attributes of its classes."""
    source = SOURCES[loop]
    classes = [each for each in vars(source).values() if isinstance(each, type) and each.__module__ == source.__name__]
    instead = {getattr(loop, name): event for name, event in events.items()}
    attributes = [
        (owner, name, instead[value])
        for owner in (source, *classes)
        for name, value in vars(owner).items()
        if isinstance(value, Event) and value in instead
    ]
    for owner, name, event in attributes:
        monkeypatch.setattr(owner, name, event)


def found(loop: ModuleType, folder: Path) -> str:
    """Run a loop that saves after each step, and return the violation of its lifecycle."""
    trace = traced(loop, CheckpointingConfig(folder=folder, period_steps=1))
    return violation(name_of(loop), trace, complete=True) or ""


@pytest.mark.parametrize("loop", SOURCES)
def test_the_source_of_a_loop_names_each_of_its_events(loop: ModuleType, tmp_path: Path) -> None:
    """These tests patch every trigger, and find nothing where nothing is patched."""
    named = {name for name in vars(SOURCES[loop]) if name.startswith("EVENT_")}

    assert {event.id for event in events_of(loop)} == {getattr(loop, name).id for name in named}
    assert found(loop, tmp_path / "checkpoints") == ""


@pytest.mark.parametrize(("loop", "name"), [*required(train), *required(inference)])
def test_a_missing_trigger_is_named(
    loop: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If an event is not triggered, the lifecycle violation names it."""
    replace(monkeypatch, loop, {name: UNHEARD[loop]})

    assert name in found(loop, tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("one", "other"), [pair for loop in (train, inference) for pair in itertools.pairwise(triggered(loop))]
)
def test_swapping_adjacent_triggers_is_reported(
    one: Named, other: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If two adjacent triggers are swapped, the lifecycle violation names one of them."""
    (loop, name), (_, other_name) = one, other
    replace(monkeypatch, loop, {name: getattr(loop, other_name), other_name: getattr(loop, name)})
    said = found(loop, tmp_path / "checkpoints")

    assert name in said or other_name in said


@pytest.mark.slow
@pytest.mark.parametrize(("loop", "name"), [*triggered(train), *triggered(inference)])
def test_swapping_any_two_triggers_is_reported(
    loop: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If any two triggers of a loop are swapped, the violation names one of them."""
    names = [each for _, each in triggered(loop)]
    for number, other in enumerate(names[names.index(name) + 1 :]):
        with monkeypatch.context() as patched:
            replace(patched, loop, {name: getattr(loop, other), other: getattr(loop, name)})
            said = found(loop, tmp_path / str(number))
        assert name in said or other in said, (name, other, said)
