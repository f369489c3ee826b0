"""Rules about the order of a run: its phases, its pairs and brackets of events, and what comes after what."""

from collections.abc import Iterator
from typing import Final

from d9d_codegen.catalogue import Catalogue, EventSpec, Module, Phase, Scope
from d9d_codegen.diagnostic import Text, Violation, closest
from d9d_codegen.lifecycle import POST, PRE, closings, other_sides, pairs, unreachable


def half_pair(catalogue: Catalogue) -> Iterator[Violation]:
    """An event is one side of a moment, and the other side is missing."""
    for module in catalogue.modules:
        halves = {moment: pair for moment, pair in pairs(module).items() if not (pair.pre and pair.post)}
        begun = [moment for moment, pair in halves.items() if pair.pre]
        ended = [moment for moment, pair in halves.items() if pair.post]
        for moment, pair in halves.items():
            event, side, others = (pair.pre, POST, ended) if pair.pre else (pair.post, PRE, begun)
            if event is None:
                continue
            match = closest(moment, others)
            remedy = f'is "{match}{side}" misspelt?' if match else "declare the other side, or choose another id"
            yield Violation(event.id, f'{event.name} is half a pair: no event has the id "{moment}{side}"', remedy)


def crossed_pair(catalogue: Catalogue) -> Iterator[Violation]:
    """A pair or a bracket ends before it begins, or before another one that began inside it."""
    for module in catalogue.modules:
        events = {str(event.id): event for event in module.own_events}
        closing_of = closings(module)
        opening_of = {str(closing.id): events[opening] for opening, closing in closing_of.items()}
        begun: list[EventSpec] = []
        for event in module.own_events:
            opening = opening_of.get(event.id)
            if event.id in closing_of:
                begun.append(event)
            if opening is None or opening is event:
                continue
            at = event.ends or event.id
            if opening not in begun:
                remedy = f"declare {opening.name} first" if event.ends else "declare the .pre event first"
                yield Violation(at, f"{event.name} comes before {opening.name}", remedy)
            else:
                inner = begun[-1]
                begun.remove(opening)
                if inner is not opening:
                    what = "its bracket" if event.ends else "its pair"
                    message = f"{event.name} closes {what} before {inner.name}, opened inside it, is closed"
                    yield Violation(at, message, f"declare it after {closing_of[inner.id].name}")


def mismatched_pair(catalogue: Catalogue) -> Iterator[Violation]:
    """The two sides of a pair differ in phase, in context, or in how often they occur."""
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for pair in pairs(module).values():
            pre, post = pair.pre, pair.post
            if pre is None or post is None:
                continue
            sides = f"{post.name} and {pre.name}"
            if pre.phase and post.phase and post.phase != pre.phase:
                message = f'{sides} are a pair but have different phases: "{post.phase}" and "{pre.phase}"'
                yield Violation(post.phase, message, f'use "{pre.phase}" in both')
            if pre.context and post.context and scope.resolve(post.context) != scope.resolve(pre.context):
                message = f'{sides} are a pair but have different contexts: "{post.context}" and "{pre.context}"'
                yield Violation(post.context, message, f'use "{pre.context}" in both')
            if (pre.repeats, pre.optional) != (post.repeats, post.optional):
                message = f"{sides} are a pair but differ in `repeats` or `optional`"
                yield Violation(post.name, message, "use the same values in both")


def bad_bracket(catalogue: Catalogue) -> Iterator[Violation]:
    """An event closes itself, a side of a pair, what another event closes, or what is in another phase."""
    for module in catalogue.modules:
        sides = {str(event.name): other for event, other in _sides(module)}
        events = {str(event.name): event for event in module.own_events}
        closed: dict[str, EventSpec] = {}
        for event in module.own_events:
            opening = events.get(event.ends or "")
            if event.ends is None or opening is None:
                continue
            if opening is event:
                yield Violation(event.ends, f"{event.name} closes itself", "name the event that opens what it closes")
            elif event.name in sides or opening.name in sides:
                side = event if event.name in sides else opening
                message = f"{event.name} closes {opening.name}, but {side.name} is a side of a pair"
                yield Violation(
                    event.ends, message, f"{side.name} and {sides[side.name].name} belong together by their ids"
                )
            elif opening.name in closed:
                message = f"{event.name} closes {opening.name}, which {closed[opening.name].name} closes already"
                yield Violation(event.ends, message, "each event is closed by one event: remove one of the two `ends`")
            elif opening.phase and event.phase and opening.phase != event.phase:
                message = (
                    f'{event.name} closes {opening.name} but is in another phase: "{event.phase}" and "{opening.phase}"'
                )
                yield Violation(event.phase, message, f'use "{opening.phase}" in both')
            closed.setdefault(str(opening.name), event)
            if opening is not event and (opening.repeats or opening.optional):
                flag = "repeats" if opening.repeats else "optional"
                message = f"{opening.name} is closed by {event.name} and has the flag `{flag}`"
                remedy = f"move `{flag}` to {event.name}: there it is meant for both, and for all between them"
                yield Violation(opening.name, message, remedy)


def _sides(module: Module) -> Iterator[tuple[EventSpec, EventSpec]]:
    others = other_sides(module)
    yield from ((event, others[event.id]) for event in module.own_events if event.id in others)


def conflicting_flags(catalogue: Catalogue) -> Iterator[Violation]:
    """A phase has flags, or stands around a phase, that contradict each other."""
    for module in catalogue.modules:
        phases = {str(phase.name): phase for phase in module.phases}
        for phase in module.phases:
            for flag, others, reason in _CONFLICTS:
                other = next((each for each in others if getattr(phase, each)), None)
                if getattr(phase, flag) and other:
                    message = f'phase "{phase.name}" is both `{flag}` and `{other}`'
                    yield Violation(phase.name, message, f"{reason}: remove one of the two")
            if phase.around == phase.name:
                message = f'phase "{phase.name}" stands around itself'
                yield Violation(
                    phase.around, message, "name the phase before, between and after whose runs it may stand"
                )
            elif phase.around in phases:
                yield from _around(phase.around, phase, phases[phase.around])


_CONFLICTS: Final = (
    ("around", ("anytime", "aborts", "terminal"), "a phase around another has its places before and after that one"),
    ("aborts", ("anytime", "repeats"), "a phase that aborts a run may follow any event, once"),
    ("any_order", ("anytime",), "events that may fall anywhere have no order to keep"),
)


def _around(at: Text, phase: Phase, center: Phase) -> Iterator[Violation]:
    flag = next((flag for flag in ("around", "anytime", "aborts", "terminal") if getattr(center, flag)), None)
    if flag:
        message = f'phase "{phase.name}" stands around "{center.name}", which is `{flag}`'
        reason = "nothing follows a terminal phase" if flag == "terminal" else "that phase has no place in the order"
        yield Violation(at, message, f"{reason}: name another one")


def unreachable_event(catalogue: Catalogue) -> Iterator[Violation]:
    """An event must come after one that cannot come before it."""
    for module in catalogue.modules:
        if not any(event.after for event in module.own_events) or not _is_ordered(module):
            continue
        events = {str(event.id): event for event in module.own_events}
        for event_id in unreachable(module):
            event = events[event_id]
            if event.after:
                message = f"no run triggers {event.name}: {event.after} cannot come before it"
                yield Violation(event.after, message, "name an event that can, or change the order of the two")


def _is_ordered(module: Module) -> bool:
    """Return whether the phases and events of a module make an order."""
    phases = {str(phase.name) for phase in module.phases}
    names = {str(event.name) for event in module.own_events}
    return all(
        event.id and event.phase in phases and (event.ends is None or event.ends in names)
        for event in module.own_events
    ) and all(phase.around is None or phase.around in phases for phase in module.phases)


def phase_order(catalogue: Catalogue) -> Iterator[Violation]:
    """An event comes after one of a later phase."""
    for module in catalogue.modules:
        # The places of the other phases do not depend on where they are declared.
        positions = {
            str(phase.name): at
            for at, phase in enumerate(module.phases)
            if not (phase.anytime or phase.around or phase.aborts)
        }
        latest: EventSpec | None = None
        for event in module.own_events:
            if event.phase not in positions:
                continue
            if latest and positions[event.phase] < positions[latest.phase]:
                message = f'{event.name} of phase "{event.phase}" comes after {latest.name} of "{latest.phase}"'
                yield Violation(event.phase, message, "declare the events in the order of their phases")
            else:
                latest = event


def unreachable_phase(catalogue: Catalogue) -> Iterator[Violation]:
    """No run can reach a phase, since every run has ended before it."""
    for module in catalogue.modules:
        end = None
        for phase in module.phases:
            if phase.terminal and phase.repeats:
                message = f'phase "{phase.name}" is both `terminal` and `repeats`'
                yield Violation(phase.name, message, "nothing follows a terminal phase: remove one of the two")
            if end and not (phase.anytime or phase.around or phase.aborts):
                message = f'no run reaches phase "{phase.name}": the phase "{end}" before it is terminal'
                yield Violation(phase.name, message, f'declare it before "{end}", or make "{end}" optional')
            elif phase.terminal and not (phase.optional or phase.anytime or phase.aborts):
                end = phase.name
