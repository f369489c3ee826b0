"""Functions that make one event of a family, such as one for each data set: the beginning of the ids is literal."""

from d9d.loop.event import Event


def right_family(name: str) -> Event[int]:
    return Event(id=f"user.saved_by.{name}")


def right_nested_family(name: str, side: str) -> list[Event[int]]:
    return [Event[int](id=f"user.upload.{name}.{side}")]


class RightFamily:
    def event(self, number: int) -> Event[int]:
        return Event[int](id=f"user.round.number_{number}")


def wrong_catalogue(name: str) -> Event[int]:
    # E[d9d-event-id]: The id of an event is not a literal, so it cannot be verified: write it as a string literal in
    #   one definition of the event, and import that definition where the event is used
    return Event(id=f"train.saved.{name}")


def wrong_beginning(name: str) -> Event[int]:
    # E[d9d-event-id]: The id of an event is not a literal, so it cannot be verified: write it as a string literal in
    #   one definition of the event, and import that definition where the event is used
    return Event(id=f"{name}.saved")
