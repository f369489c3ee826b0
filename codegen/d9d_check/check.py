"""Checks a program: reads its files, runs it, applies the rules, and says where each finding is."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from d9d_check.brackets import check_brackets
from d9d_check.catalogues import Catalogues, read_catalogues, read_settings
from d9d_check.codes import UNCHECKED
from d9d_check.divergence import Divergence
from d9d_check.effects import Effects
from d9d_check.facts import Facts, Watchers
from d9d_check.held import Held
from d9d_check.lifecycle import Lifecycle
from d9d_check.liveness import check_liveness, is_test_module
from d9d_check.lookalikes import check_lookalikes
from d9d_check.program import Program, run_program
from d9d_check.report import Diagnostic, locate, whole_file
from d9d_check.source import CACHE, Module, python_files, read_modules
from d9d_check.values import Site

_NOT_IN_TESTS: Final = frozenset(
    {
        *("d9d-target", "d9d-twice", "d9d-late", "d9d-scope", "d9d-untriggered", "d9d-recursion"),
        *("d9d-host-sync", "d9d-collective", "d9d-held", "d9d-restore"),
    }
)
"""Tests do what is wrong on purpose, and may wait for the device."""
_DEPTH: Final = 8_000
"""How deep calls of this package may be nested: modules that import each other in a long line are run in each other."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check has found.

    Attributes:
        diagnostics: What is reported, by file and line, notes included.
        num_files: How many files were checked.
    """

    diagnostics: list[Diagnostic]
    num_files: int


def check(paths: Sequence[Path], *, use_cache: bool = True) -> Result:
    """Check files as parts of the program that they belong to.

    Args:
        paths: Files, notebooks, and folders of them.
        use_cache: Whether to keep the summaries of files for the next run.
    """
    project = find_project(paths)
    others = list(python_files(_sources(project))) if project is not None else []
    files = list(python_files(paths))
    modules = read_modules(files, others, (project or Path()) / CACHE if use_cache else None)
    catalogues = read_catalogues(project)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    try:
        program = apply_rules(modules, catalogues)
    finally:
        sys.setrecursionlimit(limit)
    return Result(_diagnostics(program, modules, catalogues, project), len(files))


def apply_rules(modules: Sequence[Module], catalogues: Catalogues) -> Program:
    """Run a program, and apply all rules to what it does; a fault in one rule does not keep the others from running."""
    effects, divergence, lifecycle, held = Effects(), Divergence(), Lifecycle(), Held(catalogues)
    first = next((module for module in modules if module.is_reported), None)
    start = Site(first.key if first else "", 1, 0, 1, 0)
    try:
        program = run_program(modules, catalogues, Watchers([effects, divergence, lifecycle, held]))
    except Exception as error:  # noqa: BLE001 -- any fault before the program runs
        return Program(Facts(), catalogues, [(start, f"{type(error).__name__}: {error}")])
    rules: list[Callable[[], None]] = [
        functools.partial(check_liveness, program),
        functools.partial(check_lookalikes, program.facts, catalogues, modules),
        functools.partial(effects.report, program.facts),
        functools.partial(divergence.report, program.facts),
        functools.partial(lifecycle.report, program.facts, catalogues.moments),
        functools.partial(held.report, program.facts, modules),
        functools.partial(check_brackets, program.facts, catalogues, modules),
    ]
    for rule in rules:
        try:
            rule()
        except Exception as error:  # noqa: BLE001 -- any fault of the rule
            program.crashes.append((start, f"{type(error).__name__}: {error}"))
    return program


def find_project(paths: Sequence[Path]) -> Path | None:
    """Return the nearest folder with a `pyproject.toml` above the first path."""
    first = paths[0] if paths else Path()
    try:
        folder = first.resolve()
    except (OSError, RuntimeError):  # a link to itself
        folder = first.absolute()
    # Anything with that name counts: one that is not a file is an error, and not a project further up.
    return next((each for each in [folder, *folder.parents] if os.path.lexists(each / "pyproject.toml")), None)


def _sources(project: Path) -> list[Path]:
    """Return what belongs to the program: the sources that the project names, or else all of its folder."""
    return list(read_settings(project).sources) or [project]


def _diagnostics(
    program: Program, modules: Sequence[Module], catalogues: Catalogues, project: Path | None
) -> list[Diagnostic]:
    by_key = {module.key: module for module in modules}
    found = [(finding.site, finding.code, finding.message) for finding in program.facts.findings]
    found += [(site, UNCHECKED, message) for site, message in program.facts.unchecked.items()]
    found += [
        (site, UNCHECKED, f"d9d check could not check this: {message}. Please report it")
        for site, message in program.crashes
    ]
    found += [
        (
            Site(module.key, module.problem_line, 0, module.problem_line, 0),
            UNCHECKED if module.is_skipped else "d9d-syntax",
            f"This file {module.problem}{', so it is not checked' if module.is_skipped else ''}",
        )
        for module in modules
        if module.problem
    ]
    diagnostics = [
        diagnostic
        for site, code, message in found
        if (module := by_key.get(site.module)) is not None and module.is_reported
        if not (code in _NOT_IN_TESTS and is_test_module(module.key))
        if (diagnostic := locate(module, site, code, message)) is not None
    ]
    where = str(project / "pyproject.toml") if project is not None else "d9d"
    diagnostics += [
        whole_file(where, "d9d-index", problem) for problem in (*read_settings(project).problems, *catalogues.problems)
    ]
    return sorted(set(diagnostics))
