"""A missing trigger, or two swapped triggers, in a loop are reported with the name of the event.

`d9d-catalogue coverage` finds most of these mistakes in the source, see `tests/codegen/test_coverage.py`; a recorded
run, as in `test_trace_order.py`, finds all of them. `make check` does both. Each event constant appears once in the
sources of the loops, so patching the constant changes the event that is triggered there.
"""

import itertools
import re
from pathlib import Path

import pytest
from declared import violation

from d9d.loop.event import Event
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import inference as inference_run
from d9d.loop.run import training as training_run

from .test_trace_order import name_of, traced

PLACES = {
    name: source for source in (training_run, inference_run) for name in vars(source) if name.startswith("EVENT_")
}
UNHEARD: Event[object] = Event(id="user.unheard")


def found() -> str:
    """Run both loops, and return the lifecycle violations of their traces."""
    return "\n".join(violation(name_of(loop), traced(loop, None), complete=True) or "" for loop in (train, inference))


def test_each_event_is_triggered_at_one_place() -> None:
    """Each event constant is used exactly once in the source of its loop, so these tests patch every trigger."""
    called = [
        name
        for source in {*PLACES.values()}
        for name in re.findall(r"\b(EVENT_[A-Z_]+)(?:, |\))", Path(str(source.__file__)).read_text(encoding="utf-8"))
    ]
    assert sorted(called) == sorted(PLACES)
    assert len(PLACES) == 22
    assert found() == "\n"


@pytest.mark.parametrize("name", PLACES)
def test_a_missing_trigger_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an event is not triggered, the lifecycle violation names it."""
    monkeypatch.setattr(PLACES[name], name, UNHEARD)

    assert name in found()


@pytest.mark.parametrize(("name", "other"), [*itertools.pairwise(PLACES)])
def test_swapping_adjacent_triggers_is_reported(name: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two adjacent triggers are swapped, the lifecycle violation names one of them."""
    event = getattr(PLACES[name], name)
    monkeypatch.setattr(PLACES[name], name, getattr(PLACES[other], other))
    monkeypatch.setattr(PLACES[other], other, event)
    said = found()

    assert name in said or other in said


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_swapping_any_two_triggers_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If any two triggers are swapped, even across the two loops, the violation names one of them."""
    event = getattr(PLACES[name], name)
    for other in itertools.islice(PLACES, [*PLACES].index(name) + 1, None):
        with monkeypatch.context() as patched:
            patched.setattr(PLACES[name], name, getattr(PLACES[other], other))
            patched.setattr(PLACES[other], other, event)
            said = found()
        assert name in said or other in said, (name, other, said)
