"""An event stays one object when it is copied."""

import copy
import pickle

import pytest

from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated

EVENT_ASKED = Event[str](id="user.asked")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copied_event_is_the_event(duplicate: object) -> None:
    """So a copy of an object with an event still listens to that event."""
    assert callable(duplicate)
    assert duplicate(EVENT_ASKED) is EVENT_ASKED
    assert duplicate([EVENT_ASKED])[0] is EVENT_ASKED


def test_an_event_cannot_be_pickled() -> None:
    """The unpickled event would be a second one; the error says what to do instead."""
    with pytest.raises(
        TypeError,
        match=r"event 'user\.asked' cannot be pickled, because events are compared by identity: import it instead",
    ):
        pickle.dumps(EVENT_ASKED)


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
