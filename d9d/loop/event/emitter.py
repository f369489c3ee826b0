"""Functions that trigger one event each. Standard library only."""

import functools
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any

from d9d.loop.event.handler import note


def make_emitter(event_id: str, handlers: Iterable[Callable[[Any], None]]) -> FunctionType:
    """Return a function that calls handlers, one by one, as in code written by hand for these very handlers.

    A loop over them, or a variable for the one that runs, would take a tenth longer: see
    docs/decisions/0013-loops-hold-emitters.md.

    Args:
        event_id: The id of the event that they hear.
        handlers: What to call, in order.
    """
    # Emitters share their code, and each finds its handlers among its own global names.
    emitter = FunctionType(_code(0), {"handlers": [], "note": functools.partial(note, event_id)}, "emit")
    for handler in handlers:
        add_handler(emitter, handler)
    return emitter


def add_handler(emitter: FunctionType, handler: Callable[[Any], None]) -> None:
    """Have an emitter call one more handler, from the next time on that it is called."""
    names = emitter.__globals__
    names[f"handler_{len(names['handlers'])}"] = handler
    names["handlers"].append(handler)
    emitter.__code__ = _code(len(names["handlers"]))  # a call that goes on meanwhile keeps its own


@functools.cache
def _code(num_handlers: int) -> CodeType:
    """Return the code that calls so many handlers."""
    calls = "".join(
        f"    try: handler_{number}(context)\n"
        f"    except BaseException as error: error.add_note(note(handler_{number})); raise\n"
        for number in range(num_handlers)
    )
    defined: dict[str, FunctionType] = {}
    source = f"def emit(context, /):\n{calls or '    pass'}"
    exec(compile(source, "<emitter of an event>", "exec"), defined)  # noqa: S102 -- nothing but numbers is put into it
    return defined["emit"].__code__
