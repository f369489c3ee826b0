"""An event is its id: copies, pickles and repeated definitions are the same event."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from d9d.loop.event import Event, EventBus, TContext, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

EVENT_ASKED = Event[str](id="user.asked")
DUPLICATES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]  # noqa: S301 -- pickled here


@pytest.mark.parametrize("duplicate", DUPLICATES, ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("event", [EVENT_ASKED, EVENT_TRAIN_STEP_PRE], ids=lambda event: event.id)
def test_a_duplicate_is_the_same_event(duplicate: Callable[[Any], Any], event: Event[Any]) -> None:
    """It is equal, has the same hash, and keeps what is recorded of the event."""
    other = duplicate(event)

    assert other == event
    assert hash(other) == hash(event)
    assert (other.context_name, other.in_step) == (event.context_name, event.in_step)


def test_a_handler_hears_a_duplicate_of_its_event() -> None:
    """Objects that were sent to another process still listen to the event."""
    heard: list[str] = []
    bus = EventBus()
    bus.subscribe(pickle.loads(pickle.dumps(EVENT_ASKED)), heard.append)  # noqa: S301 -- pickled here

    bus.trigger(EVENT_ASKED, "why?")

    assert heard == ["why?"]


def test_a_notebook_cell_can_be_run_again() -> None:
    """The bus takes the event that it defines the second time for that of the first."""
    cell = "class Context: ...\nEVENT = Event[Context](id='user.cell')\nbus.subscribe(EVENT, heard.append)\n"
    notebook: dict[str, Any] = {"Event": Event, "bus": EventBus(), "heard": [], "__name__": "__main__"}

    exec(cell, notebook)  # noqa: S102 -- source of this test
    exec(cell, notebook)  # noqa: S102 -- source of this test
    notebook["bus"].trigger(notebook["EVENT"], notebook["Context"]())

    assert len(notebook["heard"]) == 2


def test_events_with_other_ids_differ() -> None:
    """Even if their contexts are the same."""
    assert Event[int](id="user.one") != Event[int](id="user.other")


def test_an_event_is_a_dataclass_that_shows_its_id() -> None:
    """It cannot be changed."""
    assert dataclasses.is_dataclass(EVENT_ASKED)
    assert repr(EVENT_ASKED) == "Event(id='user.asked')"
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENT_ASKED.id = "other"  # type: ignore[misc]  # what is tested


class Context:
    """A context of these tests."""


def _generic(kind: type[TContext]) -> Event[TContext]:
    return Event[TContext](id="user.generic")


def test_an_event_knows_the_name_of_its_context() -> None:
    """As far as it is known where the event is made."""
    assert Event[Context](id="user.named").context_name == f"{__name__}.Context"
    assert Event[list[int]](id="user.list").context_name == "list[int]"
    assert Event[int | None](id="user.union").context_name == "int | None"
    declared: Event[Context] = Event(id="user.declared")
    assert declared.context_name is None
    assert _generic(Context).context_name is None
    assert Event["Context"](id="user.forward").context_name is None
    assert Event[Any](id="user.any").context_name is None


def test_events_of_a_catalogue_know_the_names_of_their_contexts() -> None:
    """The compiler writes them, so that they match those of `Event[...]`."""
    assert EVENT_TRAIN_STEP_PRE.context_name == Event[EventStepContext](id="user.step").context_name


def test_an_alias_of_the_class_is_a_type_like_any_other() -> None:
    """It can be part of other types."""
    assert str(Event[int] | None) == "d9d.loop.event.bus.Event[int] | None"
    with pytest.raises(TypeError, match="Too many"):
        Event[int, str]  # type: ignore[misc]  # what is tested


def test_an_alias_in_a_class_body_is_the_same_handler() -> None:
    """It is called once."""
    heard: list[str] = []

    class Listener:
        @subscribe(EVENT_ASKED)
        def on_asked(self, question: str) -> None:
            heard.append(question)

        onAsked = on_asked  # noqa: N815 -- another naming convention

    bus = EventBus()
    subscribe_annotated(bus, Listener())
    bus.trigger(EVENT_ASKED, "why?")

    assert heard == ["why?"]
