"""Runs a part of a program, applies all rules to what it does, and returns what they find."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Final

from d9d_check.brackets import check_brackets
from d9d_check.catalogues import Catalogues
from d9d_check.codes import UNCHECKED
from d9d_check.divergence import Divergence
from d9d_check.effects import Effects
from d9d_check.facts import Facts, Finding, Watchers
from d9d_check.held import Held
from d9d_check.lifecycle import Lifecycle
from d9d_check.liveness import check_liveness
from d9d_check.lookalikes import check_lookalikes
from d9d_check.program import Program, run_program
from d9d_check.source import Module
from d9d_check.twice import check_twice
from d9d_check.values import Site

_DEPTH: Final = 8_000


def find_in(modules: Sequence[Module], catalogues: Catalogues, *, configures: bool) -> list[Finding]:
    """Return what is found in modules; a fault in one rule does not keep the others from running.

    Args:
        modules: A part of a program, with summaries.
        catalogues: The declared events.
        configures: Whether the program configures a loop.
    """
    effects, divergence, lifecycle, held = Effects(), Divergence(), Lifecycle(), Held(catalogues)
    start = Site(modules[0].key, 1, 0, 1, 0)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    try:
        watchers = Watchers([effects, divergence, lifecycle, held])
        program = run_program(modules, catalogues, watchers, configures=configures)
    except Exception as error:  # noqa: BLE001 -- any fault before the program runs
        program = Program(Facts(), catalogues, [(start, f"{type(error).__name__}: {error}")])
    finally:
        sys.setrecursionlimit(limit)
    rules: list[Callable[[], None]] = [
        functools.partial(check_liveness, program),
        functools.partial(check_twice, program.facts),
        functools.partial(check_lookalikes, program.facts, catalogues, modules),
        functools.partial(effects.report, program.facts, modules),
        functools.partial(divergence.report, program.facts, modules),
        functools.partial(lifecycle.report, program.facts, catalogues.moments),
        functools.partial(held.report, program.facts, modules),
        functools.partial(check_brackets, program.facts, catalogues, modules),
    ]
    for rule in rules:
        try:
            rule()
        except Exception as error:  # noqa: BLE001 -- any fault of the rule
            program.crashes.append((start, f"{type(error).__name__}: {error}"))
    notes = [*program.facts.unchecked.items()]
    notes += [
        (site, f"d9d check could not check this: {message}. Please report it") for site, message in program.crashes
    ]
    return [*program.facts.findings, *(Finding(UNCHECKED, message, site) for site, message in notes)]
