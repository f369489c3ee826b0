"""The lifecycle of a module as a Mermaid state diagram.

Mermaid draws no edge between the inner states of two composite states, so each phase is a diagram of its own events,
and the edges between phases are drawn between the phases themselves.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from d9d_codegen.lifecycle import Lifecycle
from d9d_codegen.model import EventSpec, Module, Phase

_EDGE: Final = "[*]"  # the beginning of a diagram on the left of an arrow, its end on the right


def state_diagram(module: Module) -> str:
    """Return the text of a module's diagram, without the fence around it."""
    lines = ["stateDiagram-v2", *_indented(_whole(module))]
    return "\n".join(lines)


def _whole(module: Module) -> Iterator[str]:
    names = {str(phase.name): f"phase{number}" for number, phase in enumerate(module.phases, start=1)}
    phase_of = {str(event.id): str(event.phase) for event in module.own_events}
    for phase in module.phases:
        yield f'state "{_label(phase)}" as {names[phase.name]}'
        yield f"state {names[phase.name]} {{"
        yield from _indented(_inner(module, phase))
        yield "}"
    lifecycle = Lifecycle.of(module)
    yield from _unique(f"{_EDGE} --> {names[phase_of[first]]}" for first in lifecycle.followers[""])
    yield from _unique(
        f"{names[phase_of[event_id]]} --> {names[phase_of[follower]]}"
        for event_id, followers in lifecycle.followers.items()
        for follower in (followers if event_id else [])
        if phase_of[event_id] != phase_of[follower]
    )
    for phase in module.phases:
        if phase.repeats and not phase.anytime:
            yield f"{names[phase.name]} --> {names[phase.name]}"
    ends = lifecycle.ends | lifecycle.final
    yield from _unique(f"{names[phase]} --> {_EDGE}" for event_id, phase in phase_of.items() if event_id in ends)


def _inner(module: Module, phase: Phase) -> Iterator[str]:
    """Yield the states and edges within one phase, as if it were a whole run."""
    names = {str(event.id): str(event.name) for event in module.own_events if event.phase == phase.name}
    events = tuple(event for event in module.own_events if event.phase == phase.name)
    alone = replace(phase, repeats=False, optional=False, anytime=False, terminal=False)
    lifecycle = Lifecycle.of(replace(module, phases=(alone,), events=events))
    for event in events:
        yield f'state "{_label(event)}" as {event.name}'
    yield from (f"{_EDGE} --> {names[first]}" for first in _unique(lifecycle.followers[""]))
    for event in events:
        yield from (f"{event.name} --> {names[after]}" for after in _unique(lifecycle.followers[event.id]))
    yield from (f"{event.name} --> {_EDGE}" for event in events if event.id in lifecycle.ends)


def _label(entry: Phase | EventSpec) -> str:
    """Return what a state is called: phases are told by a word, events by their ids; neither can hold a quote."""
    if isinstance(entry, EventSpec):
        return str(entry.id)
    return f"{entry.name}, at any time" if entry.anytime else str(entry.name)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


def _unique(items: "Iterator[str] | list[str]") -> list[str]:
    return list(dict.fromkeys(items))
