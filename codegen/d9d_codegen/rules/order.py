"""Rules about the order of a run: its phases and its pairs of events."""

from collections.abc import Iterator

from d9d_codegen.catalogue import Catalogue, EventSpec, Scope
from d9d_codegen.diagnostic import Violation, closest
from d9d_codegen.lifecycle import POST, PRE, other_sides, pairs


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
    """A pair ends before it begins, or before another pair that began inside it."""
    for module in catalogue.modules:
        others = other_sides(module)
        begun: list[EventSpec] = []
        for event in module.own_events:
            other = others.get(event.id)
            if other is None:
                continue
            if event.id.endswith(PRE):
                begun.append(event)
            elif other not in begun:
                yield Violation(event.id, f"{event.name} comes before {other.name}", "declare the .pre event first")
            else:
                inner = begun[-1]
                begun.remove(other)
                if inner is not other:
                    message = f"{event.name} closes its pair before {inner.name}, opened inside it, is closed"
                    yield Violation(event.id, message, f"declare it after {others[inner.id].name}")


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


def phase_order(catalogue: Catalogue) -> Iterator[Violation]:
    """An event comes after one of a later phase."""
    for module in catalogue.modules:
        positions = {str(phase.name): at for at, phase in enumerate(module.phases) if not phase.anytime}
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
            if end and not phase.anytime:
                message = f'no run reaches phase "{phase.name}": the phase "{end}" before it is terminal'
                yield Violation(phase.name, message, f'declare it before "{end}", or make "{end}" optional')
            elif phase.terminal and not phase.optional and not phase.anytime:
                end = phase.name
