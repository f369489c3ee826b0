"""Which trigger may have come last, module by module, at one point of a function."""

from collections.abc import Iterable
from typing import Final

from d9d_codegen.coverage.site import Site

Lasts = frozenset[Site | None]  # None stands for whatever came before the function was called
State = dict[str, Lasts]  # by the module of the events
ENTRY: Final[Lasts] = frozenset([None])


def merged(states: Iterable[State | None]) -> State | None:
    """Return the state where several ways meet; nothing where none of them gets there."""
    live = [state for state in states if state is not None]
    if not live:
        return None
    modules = dict.fromkeys(module for state in live for module in state)
    return {module: frozenset().union(*(state.get(module, ENTRY) for state in live)) for module in modules}


def after_call(state: State, exits: State) -> State:
    """Return the state after a call of a function.

    Args:
        state: The state before the call.
        exits: The state of the function at its end.
    """
    changed = {
        module: (lasts - ENTRY) | (state.get(module, ENTRY) if None in lasts else frozenset())
        for module, lasts in exits.items()
    }
    return {**state, **changed}
