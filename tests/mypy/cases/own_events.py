"""A user's module of events, imported by the cases."""

import dataclasses

from d9d.loop.event import Event


@dataclasses.dataclass(kw_only=True)
class SavedElsewhereContext:
    path: str


EVENT_SAVED_ELSEWHERE = Event[SavedElsewhereContext](id="user.saved_elsewhere")
