"""Runs a part of a program, applies all rules to what it does, and returns what they find."""

import functools
from collections.abc import Callable, Sequence

from d9d_check.catalogues import Catalogues
from d9d_check.codes import UNCHECKED
from d9d_check.divergence import Divergence
from d9d_check.effects import Effects
from d9d_check.facts import Finding, Watchers
from d9d_check.lifecycle import Lifecycle
from d9d_check.liveness import check_liveness
from d9d_check.program import run_program
from d9d_check.source import Module
from d9d_check.values import Site


def find_in(modules: Sequence[Module], catalogues: Catalogues, *, configures: bool) -> list[Finding]:
    """Return what is found in modules; a fault in one rule does not keep the others from running.

    Args:
        modules: A part of a program, with summaries.
        catalogues: The declared events.
        configures: Whether the program configures a loop.
    """
    effects, divergence, lifecycle = Effects(), Divergence(), Lifecycle()
    program = run_program(modules, catalogues, Watchers([effects, divergence, lifecycle]), configures=configures)
    rules: list[Callable[[], None]] = [
        functools.partial(check_liveness, program),
        functools.partial(effects.report, program.facts),
        functools.partial(divergence.report, program.facts),
        functools.partial(lifecycle.report, program.facts, catalogues.moments),
    ]
    for rule in rules:
        try:
            rule()
        except Exception as error:  # noqa: BLE001 -- any fault of the rule
            program.crashes.append((Site(modules[0].key, 1, 0, 1, 0), f"{type(error).__name__}: {error}"))
    notes = [*program.facts.unchecked.items()]
    notes += [
        (site, f"d9d check could not check this: {message}. Please report it") for site, message in program.crashes
    ]
    return [*program.facts.findings, *(Finding(UNCHECKED, message, site) for site, message in notes)]
