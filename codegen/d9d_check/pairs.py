"""Blocks that `bounded` makes of two events, and emitters: what nothing uses, and events that belong to no block."""

from collections.abc import Collection, Iterable
from typing import Final

from d9d_check.facts import Facts
from d9d_check.values import Bounded, Emitter, EventValue, Site, Value, Values

_PRE: Final = ".pre"
_POST: Final = ".post"


def check_unused(facts: Facts, values: Iterable[Value], site: Site | None = None) -> None:
    """Report emitters and blocks among values that nothing uses.

    Args:
        facts: Where to report.
        values: The values.
        site: If given, only what is created there counts.
    """
    for value in values:
        if not isinstance(value, Emitter | Bounded) or site not in {None, value.site} or len(value.events) != 1:
            continue
        (event,) = value.events
        if isinstance(value, Emitter):
            facts.report(
                "d9d-emitter",
                f'This emitter never triggers {event}, because nothing calls its method "call": keep the emitter, and '
                'call "emitter.call(context)" where the event happens, or use "bus.trigger"',
                value.site,
            )
        else:
            facts.report(
                "d9d-pair",
                f'{event} and its counterpart are never triggered here: "bounded" triggers them only in a "with" '
                'statement. Write "with bus.bounded(...):" around the block, or use "trigger" if there is no block',
                value.site,
            )


def check_sides(facts: Facts, pre: Values, post: Values, declared: Collection[str], site: Site) -> None:
    """Report two events that cannot begin and end one block, as far as their ids and contexts say.

    Args:
        facts: Where to report.
        pre: What is given as the first event.
        post: What is given as the second event.
        declared: The names of the events that a catalogue declares.
        site: The call.
    """
    if len(pre) != 1 or len(post) != 1:
        return
    (first,), (second,) = pre, post
    if not (isinstance(first, EventValue) and isinstance(second, EventValue)):
        return
    known = {event for event in (first, second) if event.name in declared}
    message = _wrong_ids(first, second, known) or _wrong_contexts(first, second)
    if message is not None:
        facts.report("d9d-pair", message, site)


def _wrong_ids(first: EventValue, second: EventValue, declared: set[EventValue]) -> str | None:
    if not (first.id and second.id):
        return None
    if first.id == second.id:
        other = _counterpart(first.id)
        remedy = (
            f'the event with the id "{other}" as the other one'
            if other
            else "the event that ends the block as the second"
        )
        return f'"bounded" is given {first} twice: pass {remedy}'
    # The ids of events without a catalogue may end otherwise: `user.upload.begun` may well have an end.
    has_counterpart = any(event in declared or _counterpart(event.id) for event in (first, second))
    if _counterpart(first.id) != second.id and has_counterpart:
        counterparts = ", and ".join(map(_describe_counterpart, (first, second)))
        return (
            f"{first} and {second} do not begin and end the same block: {counterparts}. Pass two events whose ids "
            'differ only in ".pre" and ".post"'
        )
    if first.id.endswith(_POST):
        return f"{first} ends the block that {second} begins: pass {second} first"
    return None


def _wrong_contexts(first: EventValue, second: EventValue) -> str | None:
    if first.context is None or second.context is None or first.context == second.context:
        return None
    return (
        f'{first} carries "{_name_of(first.context)}", but {second} carries "{_name_of(second.context)}": "bounded" '
        "passes one context to the handlers of both, so use two events that carry the same context"
    )


def _name_of(context: Value) -> str:
    name = getattr(context, "name", "") or getattr(getattr(context, "definition", None), "name", "")
    return str(name).rpartition(".")[2] or "another context"


def _counterpart(event_id: str) -> str | None:
    """Return the id of the other event of a block, which follows from the id; `None` for an event of no block."""
    for side, other in ((_PRE, _POST), (_POST, _PRE)):
        if event_id.endswith(side):
            return event_id.removesuffix(side) + other
    return None


def _describe_counterpart(event: EventValue) -> str:
    other = _counterpart(event.id)
    return f'the counterpart of {event} is "{other}"' if other else f"{event} has no counterpart"
