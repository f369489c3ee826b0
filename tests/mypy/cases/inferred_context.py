"""Contexts whose type mypy only finds if it knows what the event carries: dictionaries and empty collections."""

from typing import NotRequired, TypedDict

from d9d.loop.event import Event, EventBus


class Uploaded(TypedDict):
    path: str
    size: NotRequired[int]


EVENT_UPLOADED = Event[Uploaded](id="user.uploaded")
EVENT_EMPTIED = Event[tuple[()]](id="user.emptied")
EVENT_LISTED = Event[list[Uploaded]](id="user.listed")
EVENT_BATCH_PRE = Event[dict[str, int | None]](id="user.batch.pre")
EVENT_BATCH_POST = Event[dict[str, int | None]](id="user.batch.post")


def right(bus: EventBus) -> None:
    bus.trigger(EVENT_UPLOADED, {"path": "/tmp/model"})  # noqa: S108
    bus.trigger(EVENT_EMPTIED, ())
    bus.trigger(context=[{"path": "a"}, {"path": "b", "size": 1}], event=EVENT_LISTED)
    with bus.bounded(EVENT_BATCH_PRE, EVENT_BATCH_POST, {"first": 1, "last": None}):
        bus.emitter(EVENT_UPLOADED).call({"path": "a", "size": 2})
    bus.emitter(EVENT_EMPTIED).call(())
    bus.trigger(EVENT_LISTED, [])


def wrong(bus: EventBus) -> None:
    # E[d9d-context]: EVENT_EMPTIED ("user.emptied") is triggered with "tuple[int]", but carries "tuple[()]": pass an
    #   object of type "tuple[()]"
    bus.trigger(EVENT_EMPTIED, (1,))
    # E[d9d-context]: EVENT_UPLOADED ("user.uploaded") is triggered with "str", but carries "Uploaded": pass an object
    #   of type "Uploaded"
    bus.trigger(EVENT_UPLOADED, "path")
    # E[d9d-context]: EVENT_LISTED ("user.listed") is triggered with "dict[str, str]", but carries "list[Uploaded]":
    #   pass an object of type "list[Uploaded]"
    bus.emitter(EVENT_LISTED).call({"path": "a"})
