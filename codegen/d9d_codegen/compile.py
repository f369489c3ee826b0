"""From the catalogues of a project to its generated files: what `generate` writes and `check` compares."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError
from d9d_codegen.files import Change, apply, compare, drift, foreign
from d9d_codegen.lint import lint_all
from d9d_codegen.project import find_project


def generate(paths: Sequence[Path], templates: Path | None = None) -> str:
    """Write every output of catalogues, or none.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Returns:
        What was done, in a sentence.

    Raises:
        DiagnosticError: A catalogue has diagnostics, or a file could not be written.
    """
    plan = make_plan(paths, templates)
    foreigners = [foreign(change) for change in plan.changes if change.is_foreign]
    if foreigners:
        raise DiagnosticError(foreigners)
    apply(plan.changes)
    num_written = sum(change.after is not None for change in plan.changes)
    removed = f", removed {len(plan.changes) - num_written}" if len(plan.changes) > num_written else ""
    return f"wrote {num_written} of {plan.num_files} files{removed}"


def check(paths: Sequence[Path], templates: Path | None = None) -> str:
    """Say whether every output of catalogues is as it should be; write nothing.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Returns:
        That all is well, in a sentence.

    Raises:
        DiagnosticError: A catalogue has diagnostics, or a file differs from what it says.
    """
    plan = make_plan(paths, templates)
    if plan.changes:
        raise DiagnosticError(plan.drift())
    names = [path.name for path in paths]
    say = "say" if len(names) > 1 else "says"
    return f"all {plan.num_files} files are as {' and '.join(names)} {say}"


class Plan(NamedTuple):
    """What has to be done.

    Attributes:
        num_files: How many files the catalogues make.
        by_catalogue: What has to change, by the catalogue that says so.
    """

    num_files: int
    by_catalogue: dict[Path, list[Change]]

    @property
    def changes(self) -> list[Change]:
        """All that has to change, in the order of the paths."""
        changes = [change for changes in self.by_catalogue.values() for change in changes]
        return sorted(changes, key=lambda change: change.path)

    def drift(self) -> Iterator[Diagnostic]:
        """Yield a diagnostic for each file that is not as it should be."""
        for path, changes in self.by_catalogue.items():
            yield from drift(changes, path)


def make_plan(paths: Sequence[Path], templates: Path | None = None) -> Plan:
    """Compile catalogues and compare the outcome with the files on disk.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Raises:
        DiagnosticError: A catalogue has diagnostics, or a file cannot be read.
    """
    catalogues = lint_all(paths)
    from d9d_codegen.render import notice, render  # noqa: PLC0415 -- templates are not loaded for a bad catalogue

    num_files, found = 0, {}
    wanted: set[Path] = set()
    for catalogue in catalogues:
        project = find_project(catalogue.source.path)
        outputs = render(catalogue, replace(project, templates=templates or project.templates))
        num_files += len(outputs)
        wanted |= {project.root / output.path for output in outputs}
        found[catalogue.source.path] = compare(project.root, outputs, notice(catalogue))
    return Plan(num_files, _without_twice(found, wanted))


def _without_twice(found: dict[Path, list[Change]], wanted: set[Path]) -> dict[Path, list[Change]]:
    """Leave out what one catalogue would remove although another needs it, or removes it as well."""
    taken = set(wanted)
    kept: dict[Path, list[Change]] = {}
    for path, changes in found.items():
        kept[path] = [change for change in changes if change.after is not None or change.path not in taken]
        taken |= {change.path for change in changes}
    return kept
