"""Ids of events, and events without a context type."""
# mypy: disallow-any-generics=False

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal

from event_id_base import CHOSEN, PREFIX
from own_events import EVENT_SAVED_ELSEWHERE, SavedElsewhereContext

from d9d.loop.event import Event, EventBus
from d9d.loop.event import Event as Moment


@dataclasses.dataclass(kw_only=True)
class SavedContext:
    step: int


# docs: d9d-event-id
# E[d9d-event-id]: The id of WRONG_OWNED ("train.saved") is in the namespace "train", which belongs to the catalogue of
#   d9d.loop.event.catalogue: declare the event in that catalogue, or start the id with another name
WRONG_OWNED = Event[SavedContext](id="train.saved")

RIGHT_OWN = Event[SavedContext](id="user.own")
# docs: end
# E[d9d-event-id]: The id of WRONG_OF_THE_PROJECT ("trial.saved") is in the namespace "trial", which belongs to the
#   catalogue of lab.events: declare the event in that catalogue, or start the id with another name
WRONG_OF_THE_PROJECT: Final = Event[SavedContext](id="trial.saved")
# E[d9d-event-id]: The id of WRONG_OF_INFERENCE ("inference.saved") is in the namespace "inference", which belongs to
#   the catalogue of d9d.loop.event.catalogue: declare the event in that catalogue, or start the id with another name
WRONG_OF_INFERENCE: Event[SavedContext] = Event(id="inference.saved")

# E[d9d-event-id]: The id of WRONG_ONE_SEGMENT ("saved") must consist of two or more lowercase segments joined by dots:
#   write something like "event_id.saved"
WRONG_ONE_SEGMENT = Event[SavedContext](id="saved")
# E[d9d-event-id]: The id of WRONG_UPPER_CASE ("User.Saved") must consist of two or more lowercase segments joined by
#   dots: write something like "user.saved"
WRONG_UPPER_CASE = Event[SavedContext](id="User.Saved")
# E[d9d-event-id]: The id of WRONG_EMPTY ("") must consist of two or more lowercase segments joined by dots: write
#   something like "event_id.something"
WRONG_EMPTY = Event[SavedContext](id="")
# E[d9d-event-id]: The id of WRONG_DASH ("user.saved-twice") must consist of two or more lowercase segments joined by
#   dots: write something like "user.saved_twice"
WRONG_DASH: Final[Event[SavedContext]] = Event(id="user.saved-twice")
# E[d9d-event-id]: The id of WRONG_LAST_DOT ("user.") must consist of two or more lowercase segments joined by dots:
#   write something like "event_id.user"
WRONG_LAST_DOT = Event[SavedContext](id="user.")
RIGHT_MANY_SEGMENTS = Event[SavedContext](id="user.saved_2.pre")
RIGHT_TRAINER = Event[SavedContext](id="trainer.saved")

name = "user.variable"
# E[d9d-event-id]: The id of WRONG_VARIABLE is not a literal, so it cannot be verified: write it as a string literal in
#   one definition of the event, and import that definition where the event is used
WRONG_VARIABLE = Event[SavedContext](id=name)
# E[d9d-event-id]: The id of WRONG_FORMATTED is not a literal, so it cannot be verified: write it as a string literal in
#   one definition of the event, and import that definition where the event is used
WRONG_FORMATTED = Event[SavedContext](id=f"user.{name}")
# E[d9d-event-id]: The id of an event is not a literal, so it cannot be verified: write it as a string literal in one
#   definition of the event, and import that definition where the event is used
WRONG_FAMILY = [Event[SavedContext](id=f"user.number_{number}") for number in range(3)]

ID: Final = "user.final"
RIGHT_FINAL = Event[SavedContext](id=ID)
RIGHT_SUM = Event[SavedContext](id="user." + "sum")
RIGHT_FINAL_SUM = Event[SavedContext](id=ID + ".sum")
RIGHT_ELSEWHERE = Event[SavedContext](id=CHOSEN)
RIGHT_SUM_OF_ANOTHER_MODULE = Event[SavedContext](id=PREFIX + "sum_elsewhere")


def wrong_helper(name: str) -> Event[SavedContext]:
    # E[d9d-event-id]: The id of an event is not a literal, so it cannot be verified: write it as a string literal in
    #   one definition of the event, and import that definition where the event is used
    return Event(id=name)


def wrong_dynamic(config: Any) -> Event[SavedContext]:
    # E[d9d-event-id]: The id of an event is not a literal, so it cannot be verified: write it as a string literal in
    #   one definition of the event, and import that definition where the event is used
    return Event(id=config.name)


class Ids(enum.StrEnum):
    SAVED = "user.enumerated"


def right_known(name: Literal["user.one", "user.other"], options: dict[str, Any]) -> list[Event[SavedContext]]:
    return [Event(id=name), Event(**options), Event(id=Ids.SAVED), Event(id=Ids.SAVED.value)]


EVENT_FIRST = Event[SavedContext](id="user.first")
# E[d9d-event-id]: The id of WRONG_SECOND ("user.first") is already the id of EVENT_FIRST in line 92, and a bus takes
#   both for one event: give this event another id, or use EVENT_FIRST
WRONG_SECOND = Event[SavedContext](id="user.first")
# E[d9d-event-id]: The id of WRONG_SECOND_SUM ("user.first") is already the id of EVENT_FIRST in line 92, and a bus
#   takes both for one event: give this event another id, or use EVENT_FIRST
WRONG_SECOND_SUM = Event[SavedContext](id="user." + "first")


def wrong_inline(bus: EventBus, handler: Callable[[SavedContext], None]) -> None:
    # E[d9d-event-id]: The id of an event ("user.first") is already the id of EVENT_FIRST in line 92, and a bus takes
    #   both for one event: give this event another id, or use EVENT_FIRST
    bus.subscribe(Event(id="user.first"), handler)


def right_local() -> Event[SavedContext]:
    event: Event[SavedContext] = Event(id="user.local")
    return event


def right_local_of_another_function() -> Event[SavedContext]:
    event: Event[SavedContext] = Event(id="user.local")
    return event


def wrong_local_twice() -> tuple[Event[SavedContext], Event[SavedContext]]:
    # E[d9d-event-id]: The id of an event ("user.twice") is already the id of an event in line 120, and a bus takes both
    #   for one event: give this event another id, or define the event once and use it in both places
    return Event(id="user.twice"), Event(id="user.twice")


if dataclasses.__doc__:
    RIGHT_EITHER = Event[SavedContext](id="user.either")
    RIGHT_DOCUMENTED = Event[SavedContext](id="user.documented")
else:
    RIGHT_EITHER = Event[SavedContext](id="user.either")

RIGHT_SAME_NAMED_ELSEWHERE = [EVENT_SAVED_ELSEWHERE, Event[SavedElsewhereContext](id="user.saved_elsewhere_too")]


class Owner:
    # E[d9d-event-id]: The id of WRONG_SECOND ("user.first") is already the id of EVENT_FIRST in line 92, and a bus
    #   takes both for one event: give this event another id, or use EVENT_FIRST
    WRONG_SECOND: ClassVar = Event[SavedContext](id="user.first")
    right: ClassVar[Event[SavedContext]] = Event(id="user.owned")


# E[d9d-event-id]: WRONG_WITHOUT_CONTEXT ("user.without") has no context type, so its handlers are not checked: declare
#   it as "Event[...]" with the type of its context
WRONG_WITHOUT_CONTEXT: Event = Event(id="user.without")
# E[d9d-event-id]: WRONG_FINAL_WITHOUT_CONTEXT ("user.final_without") has no context type, so its handlers are not
#   checked: declare it as "Event[...]" with the type of its context
WRONG_FINAL_WITHOUT_CONTEXT: Final[Event] = Event(id="user.final_without")
# E[d9d-event-id]: WRONG_OPTIONAL_WITHOUT_CONTEXT ("user.optional_without") has no context type, so its handlers are not
#   checked: declare it as "Event[...]" with the type of its context
WRONG_OPTIONAL_WITHOUT_CONTEXT: Moment | None = Event(id="user.optional_without")
RIGHT_ANY: Event[Any] = Event(id="user.any")
RIGHT_ANY_AS_WELL = Event[Any](id="user.any_as_well")
# E[var-annotated]: Need type annotation for "WRONG_BARE"
WRONG_BARE = Event(id="user.bare")
# E[arg-type]: Argument "id" to "Event" has incompatible type "int"; expected "str"
WRONG_NUMBER = Event[SavedContext](id=0)


def wrong_unannotated(name):
    # E[d9d-event-id]: The id of an event is not a literal, so it cannot be verified: write it as a string literal in
    #   one definition of the event, and import that definition where the event is used
    return Event(id=name)
