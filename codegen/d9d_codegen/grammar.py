"""The grammar of a module's runs as plain data, and what can stand beside each event in one."""

from dataclasses import dataclass

from d9d_codegen.lifecycle import Lifecycle
from d9d_codegen.model import Module


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What a run may show right before and right after an event, events of `anytime` phases aside.

    Attributes:
        before: The ids that may come right before it.
        after: The ids that may come right after it.
        begins: Whether a run may begin with it.
        ends: Whether a complete run may end with it.
        opening: For an event of an `anytime` phase, the id that must have come before it, if any.
        is_anytime: Whether it may fall between any two others.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    begins: bool
    ends: bool
    opening: str | None
    is_anytime: bool


def as_data(module: Module) -> dict[str, object]:
    """Return the grammar of a module's runs, as a checker without this compiler reads it.

    A run begins with one of `first`; after an event comes one of its `followers`; a complete run ends with one of
    `last`, or is empty where `may_be_empty`. Ids of `anytime` fall anywhere, each only after the id that it names.
    Nothing follows an id of `final`.
    """
    lifecycle = Lifecycle.of(module)
    ids = [str(event.id) for event in module.own_events]
    return {
        "first": _unique(lifecycle.followers[""]),
        "followers": {
            event_id: _unique(lifecycle.followers[event_id]) for event_id in ids if event_id in lifecycle.followers
        },
        "last": [event_id for event_id in ids if event_id in lifecycle.ends],
        "may_be_empty": "" in lifecycle.ends,
        "anytime": lifecycle.anytime,
        "final": [event_id for event_id in ids if event_id in lifecycle.final],
    }


def neighbours(module: Module) -> dict[str, Neighbours]:
    """Return what can come before and after each event of a module, by id."""
    lifecycle = Lifecycle.of(module)
    before: dict[str, list[str]] = {str(event.id): [] for event in module.own_events}
    for event_id, followers in lifecycle.followers.items():
        for follower in followers if event_id else []:
            before[follower].append(event_id)
    return {
        event_id: Neighbours(
            before=tuple(_unique(before[event_id])),
            after=tuple(_unique(lifecycle.followers.get(event_id, []))),
            begins=event_id in lifecycle.followers[""],
            ends=event_id in lifecycle.ends or event_id in lifecycle.final,
            opening=lifecycle.anytime.get(event_id),
            is_anytime=event_id in lifecycle.anytime,
        )
        for event_id in before
    }


def _unique(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))
