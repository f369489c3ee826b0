"""No trigger of the loops can be left out, nor change places with another, without its event being named.

`d9d-catalogue coverage` finds most of that in the source, see `tests/codegen/test_coverage.py`; a recorded run, as in
`test_trace_order.py`, finds all of it. `make check` does both. Each constant is named at one place of one source: what
that name stands for is what is triggered there.
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
    """Run both loops, and return what is said of their traces."""
    return "\n".join(violation(name_of(loop), traced(loop, None), complete=True) or "" for loop in (train, inference))


def test_each_event_is_triggered_at_one_place() -> None:
    """What these tests change is all that the loops trigger, each constant in its source once."""
    called = [
        name
        for source in {*PLACES.values()}
        for name in re.findall(r"\b(EVENT_[A-Z_]+)(?:, |\))", Path(str(source.__file__)).read_text(encoding="utf-8"))
    ]
    assert sorted(called) == sorted(PLACES)
    assert len(PLACES) == 22
    assert found() == "\n"


@pytest.mark.parametrize("name", PLACES)
def test_a_trigger_that_is_left_out_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the call, the run leaves its lifecycle right there."""
    monkeypatch.setattr(PLACES[name], name, UNHEARD)

    assert name in found()


@pytest.mark.parametrize(("name", "other"), [*itertools.pairwise(PLACES)])
def test_a_trigger_that_changes_places_with_the_next_is_named(
    name: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap of neighbours is the one that is hardest to see."""
    event = getattr(PLACES[name], name)
    monkeypatch.setattr(PLACES[name], name, getattr(PLACES[other], other))
    monkeypatch.setattr(PLACES[other], other, event)
    said = found()

    assert name in said or other in said


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_a_trigger_that_changes_places_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever other call it changes places with, in the same module or in that of the other loop."""
    event = getattr(PLACES[name], name)
    for other in itertools.islice(PLACES, [*PLACES].index(name) + 1, None):
        with monkeypatch.context() as patched:
            patched.setattr(PLACES[name], name, getattr(PLACES[other], other))
            patched.setattr(PLACES[other], other, event)
            said = found()
        assert name in said or other in said, (name, other, said)
