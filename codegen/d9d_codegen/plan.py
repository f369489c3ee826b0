"""What has to be done to the files of a project so that they are as its catalogues say."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from d9d_codegen.drift import drift
from d9d_codegen.lint import examine_all
from d9d_codegen.problem import Problem
from d9d_codegen.project import find_project
from d9d_codegen.write import Change, compare


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

    def drift(self) -> Iterator[Problem]:
        """Yield a problem for each file that is not as it should be."""
        for path, changes in self.by_catalogue.items():
            yield from drift(changes, path)


def make_plan(paths: Sequence[Path], templates: Path | None = None) -> Plan:
    """Compile catalogues and compare the outcome with the files on disk.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Raises:
        RefusedError: A catalogue has problems, or a file cannot be read.
    """
    catalogues = examine_all(paths)
    from d9d_codegen.render import notice, render  # noqa: PLC0415 -- templates are not loaded for a bad catalogue

    num_files, found = 0, {}
    wanted: set[Path] = set()
    for catalogue in catalogues:
        project = find_project(catalogue.source.path)
        artefacts = render(catalogue, replace(project, templates=templates or project.templates))
        num_files += len(artefacts)
        wanted |= {project.root / artefact.path for artefact in artefacts}
        found[catalogue.source.path] = compare(project.root, artefacts, notice(catalogue))
    return Plan(num_files, _without_twice(found, wanted))


def _without_twice(found: dict[Path, list[Change]], wanted: set[Path]) -> dict[Path, list[Change]]:
    """Leave out what one catalogue would remove although another needs it, or removes it as well."""
    taken = set(wanted)
    kept: dict[Path, list[Change]] = {}
    for path, changes in found.items():
        kept[path] = [change for change in changes if change.after is not None or change.path not in taken]
        taken |= {change.path for change in changes}
    return kept
