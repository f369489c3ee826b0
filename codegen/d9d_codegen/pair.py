"""Pairs: the two sides of one moment, `X.pre` and `X.post`."""

from dataclasses import dataclass
from typing import Final

from d9d_codegen.model import EventSpec, Module

PRE: Final = ".pre"
POST: Final = ".post"


@dataclass(slots=True)
class Pair:
    """The sides of one moment, as far as they are declared."""

    pre: EventSpec | None = None
    post: EventSpec | None = None


def stem(event_id: str) -> str | None:
    """Return the moment whose side an event is, or nothing where it is none."""
    if event_id.endswith((PRE, POST)):
        return event_id.rpartition(".")[0]
    return None


def pairs(module: Module) -> dict[str, Pair]:
    """Return the pairs of a module by their stems, in the order in which they begin; half ones too."""
    found: dict[str, Pair] = {}
    for event in module.own_events:
        moment = stem(event.id)
        if moment is None:
            continue
        pair = found.setdefault(moment, Pair())
        if event.id.endswith(PRE):
            pair.pre = pair.pre or event
        else:
            pair.post = pair.post or event
    return found


def other_sides(module: Module) -> dict[str, EventSpec]:
    """Return, for the id of each side of a pair, the event on the other side."""
    sides = {}
    for pair in pairs(module).values():
        if pair.pre and pair.post:
            sides[str(pair.pre.id)] = pair.post
            sides[str(pair.post.id)] = pair.pre
    return sides
