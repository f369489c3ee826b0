"""Checks a program: reads its files, runs it, applies the rules, and says where each finding is."""

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_check.catalogues import Catalogues, read_catalogues, read_settings
from d9d_check.codes import UNCHECKED
from d9d_check.parts import parts_of
from d9d_check.report import Diagnostic, locate, whole_file
from d9d_check.source import Module, is_test_module, outline_of, python_files, read_modules, summarise, uses_d9d
from d9d_check.store import FOLDER, Store, digest_of_checker

_NOT_IN_TESTS: Final = frozenset(
    {
        *("d9d-target", "d9d-twice", "d9d-late", "d9d-scope", "d9d-untriggered", "d9d-recursion"),
        *("d9d-host-sync", "d9d-collective", "d9d-held", "d9d-restore"),
    }
)
"""Tests do what is wrong on purpose, and may wait for the device."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check has found.

    Attributes:
        diagnostics: What is reported, by file and line, notes included.
        num_files: How many files were checked.
        digests: A hash of the text of each file of the program, by its path.
    """

    diagnostics: list[Diagnostic]
    num_files: int
    digests: Mapping[Path, str]


def check(paths: Sequence[Path], *, use_cache: bool = True) -> Result:
    """Check files as parts of the program that they belong to.

    Args:
        paths: Files, notebooks, and folders of them.
        use_cache: Whether to keep what is found for the next run, in the folder of the project.
    """
    project = find_project(paths)
    sources = [] if project is None else named_sources(project) or [project]
    return check_program(paths, sources, project, (project or Path()) / FOLDER if use_cache else None)


def check_program(
    paths: Sequence[Path],
    sources: Sequence[Path],
    project: Path | None,
    cache: Path | None,
    *,
    ignored_by: Collection[str] = ("d9d", "type"),
    catalogues: Catalogues | None = None,
) -> Result:
    """Check files of a program.

    Args:
        paths: What to report on.
        sources: What else belongs to the program.
        project: The folder of its `pyproject.toml`, if it has one.
        cache: A folder for what is found, to save time in the next run; `None` to keep nothing.
        ignored_by: The comments that count: `# d9d: ignore` and `# type: ignore`.
        catalogues: The declared events; they are read if not given.
    """
    with _garbage_kept():
        files = list(python_files(paths))
        modules = read_modules(files, [] if sources is paths else list(python_files(sources)))
        catalogues = catalogues or read_catalogues(project)
        store = Store(cache)
        found = _find(modules, catalogues, store)
        store.close()
    return Result(
        _diagnostics(found, modules, catalogues, project, ignored_by),
        len(files),
        {module.path: module.digest for module in modules},
    )


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect no garbage: there is little of it, and looking for it takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _find(modules: Sequence[Module], catalogues: Catalogues, store: Store) -> list[list[Any]]:
    """Return what is found in all parts of a program: for each finding its module, place, code and message."""
    outlines: dict[str, Mapping[str, Any]] = {}
    for module in modules:
        outline = None if module.problem else store.outline(module.digest)
        if outline is None and not module.problem:
            summarise(module, store)
            outline = None if module.summary is None else outline_of(module.summary)
        if outline is not None:
            outlines[module.key] = outline
    configures = any(outline["configures"] for outline in outlines.values())
    found: list[list[Any]] = []
    for part in parts_of([module for module in modules if module.key in outlines], outlines):
        if not any(uses_d9d(outlines[module.key]) for module in part):
            continue  # nothing in it can subscribe or trigger anything
        digest = _digest(part, catalogues, configures=configures)
        kept = store.findings(digest)
        if kept is None:
            kept = _run(part, catalogues, store, configures=configures)
            store.keep_findings(digest, kept)
        found += kept
    return found


def _run(part: Sequence[Module], catalogues: Catalogues, store: Store, *, configures: bool) -> list[list[Any]]:
    for module in part:
        if module.summary is None:
            summarise(module, store)
    # Most runs of a type checker find nothing new to run, and importing the rules would take them longer than all else.
    rules = importlib.import_module("d9d_check.rules")
    return [
        [*finding.site, finding.code, finding.message]
        for finding in rules.find_in(part, catalogues, configures=configures)
    ]


def _digest(part: Sequence[Module], catalogues: Catalogues, *, configures: bool) -> str:
    """Return a hash of everything that the findings in a part depend on."""
    texts = sorted((module.key, module.name, module.is_package, module.digest) for module in part)
    return hashlib.sha256(repr((digest_of_checker(), catalogues.digest, configures, texts)).encode()).hexdigest()


def find_project(paths: Sequence[Path]) -> Path | None:
    """Return the nearest folder with a `pyproject.toml` above the first path."""
    first = paths[0] if paths else Path()
    try:
        folder = first.resolve()
    except (OSError, RuntimeError):  # a link to itself
        folder = first.absolute()
    # Anything with that name counts: one that is not a file is an error, and not a project further up.
    return next((each for each in [folder, *folder.parents] if os.path.lexists(each / "pyproject.toml")), None)


def named_sources(project: Path) -> list[Path]:
    """Return what belongs to the program, as far as `sources` in the settings of the project names it."""
    return list(read_settings(project).sources)


def _diagnostics(
    found: Collection[Sequence[Any]],
    modules: Sequence[Module],
    catalogues: Catalogues,
    project: Path | None,
    ignored_by: Collection[str],
) -> list[Diagnostic]:
    by_key = {module.key: module for module in modules}
    broken = [
        (
            *(module.key, module.problem_line, 0, module.problem_line, 0),
            UNCHECKED if module.is_skipped else "d9d-syntax",
            f"This file {module.problem}{', so it is not checked' if module.is_skipped else ''}",
        )
        for module in modules
        if module.problem
    ]
    diagnostics = [
        diagnostic
        for key, *position, code, message in [*found, *broken]
        if (module := by_key.get(key)) is not None and module.is_reported
        if not (code in _NOT_IN_TESTS and is_test_module(key))
        if (diagnostic := locate(module, position, code, message, ignored_by)) is not None
    ]
    where = str(project / "pyproject.toml") if project is not None else "d9d"
    diagnostics += [
        whole_file(where, "d9d-index", problem) for problem in (*read_settings(project).problems, *catalogues.problems)
    ]
    return sorted(set(diagnostics))
