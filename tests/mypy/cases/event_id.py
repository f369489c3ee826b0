"""Events that code defines: their ids, and what they carry."""

import dataclasses
from typing import Any, Final, Literal, TypeVar

from d9d.loop.event import Event

TContext = TypeVar("TContext")


@dataclasses.dataclass(kw_only=True)
class SavedContext:
    step: int


# docs: d9d-event-id
# E[d9d-event-id]: The id of EVENT_WRONG ("train.saved") is in the namespace "train", which the catalogue of
#   d9d.loop.event.catalogue owns: declare the event there, or begin its id with a word of your own, such as "user"
EVENT_WRONG: Event[SavedContext] = Event(id="train.saved")


class Right:
    EVENT: Event[SavedContext] = Event(id="user.right")


# docs: end

# E[d9d-event-id]: The id of EVENT_WRONG_OF_USER ("trial.saved") is in the namespace "trial", which the catalogue of
#   lab.events owns: declare the event there, or begin its id with a word of your own, such as "user"
EVENT_WRONG_OF_USER: Event[SavedContext] = Event(id="trial.saved")

# E[d9d-event-id]: The id of EVENT_WRONG_CASE ("User.saved") is not made of lower-case segments joined by dots: write
#   one such as "user.saved"
EVENT_WRONG_CASE = Event[SavedContext](id="User.saved")

# E[d9d-event-id]: The id of EVENT_WRONG_SEGMENT ("saved") is not made of lower-case segments joined by dots: write
#   one such as "user.saved"
EVENT_WRONG_SEGMENT: Final[Event[SavedContext]] = Event(id="saved")

# E[d9d-event-id]: The id of EVENT_WRONG_TWICE ("user.right") is that of EVENT in line 23 already, and a bus refuses to
#   listen to both: give it an id of its own, or use the first
EVENT_WRONG_TWICE = Event[SavedContext](id="user.right")

# E[d9d-event-id]: EVENT_WRONG_OPEN ("user.open") has no context type, so none of its handlers is checked: declare it as
#   Event[...] with the context that it carries
EVENT_WRONG_OPEN: Event = Event(id="user.open")

# E[var-annotated]: Need type annotation for "EVENT_WRONG_UNKNOWN"
EVENT_WRONG_UNKNOWN = Event(id="user.unknown")

# E[arg-type]: Argument "id" to "Event" has incompatible type "int"; expected "str"
EVENT_WRONG_NUMBER: Event[SavedContext] = Event(id=1)

# E[call-arg]: Missing named argument "id" for "Event"
EVENT_WRONG_EMPTY: Event[SavedContext] = Event()


def wrong_computed(name: str) -> Event[SavedContext]:
    # E[d9d-event-id]: The id of an event is computed, so no checker and no reader can tell which event it is: write it
    #   out, such as "user.saved", and pass the event itself to code that is generic
    return Event(id=f"user.{name}")


NAMESPACE: Final = "user"
KIND: Literal["user.kind"] = "user.kind"
EVENT_RIGHT_CONSTANT: Event[SavedContext] = Event(id=NAMESPACE + ".constant")
EVENT_RIGHT_LITERAL: Event[SavedContext] = Event(id=KIND)
EVENT_RIGHT_ANY: Event[Any] = Event(id="user.any")
EVENT_RIGHT_PLAIN: Event[dict[str, int]] = Event(id="trials.right")


def right_generic(event: Event[TContext], context: TContext) -> TContext:
    return context


def right_in_function() -> Event[SavedContext]:
    return Event(id="user.in_function")


class RightAttribute:
    def __init__(self) -> None:
        self.saved: Event[SavedContext] = Event(id="user.attribute")


@dataclasses.dataclass
class RightOtherEvent:
    id: str


RightOtherEvent(id="train.other")


def right_local() -> Event[SavedContext]:
    return Event(id="user.in_function")
