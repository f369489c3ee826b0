"""From the catalogues of a project to its generated files: what `generate` writes and `check` compares."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from d9d_codegen.diagnostic import DiagnosticError
from d9d_codegen.files import Comparison, Declared, apply, compare, drift, locked, protected
from d9d_codegen.lint import lint_all
from d9d_codegen.project import Project, find_project


def generate(paths: Sequence[Path], templates: Path | None = None) -> str:
    """Write every output of catalogues, or none.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Returns:
        What was done, in a sentence.

    Raises:
        DiagnosticError: A catalogue is not valid, or a file could not be written.
    """
    with _projects_locked(paths, exclusive=True):
        comparisons = _compare(paths, templates)
        refused = [diagnostic for comparison in comparisons for diagnostic in protected(comparison)]
        if refused:
            raise DiagnosticError(refused)
        for comparison in comparisons:
            apply(comparison)
    changes = [change for comparison in comparisons for change in comparison.changes]
    num_written = sum(change.after is not None for change in changes)
    removed = f", removed {len(changes) - num_written}" if len(changes) > num_written else ""
    return f"wrote {num_written} of {sum(each.num_files for each in comparisons)} files{removed}"


def check(paths: Sequence[Path], templates: Path | None = None) -> str:
    """Compare every output of catalogues with the files on disk, and write nothing.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Returns:
        That every file is up to date, in a sentence.

    Raises:
        DiagnosticError: A catalogue is not valid, or a file is not up to date.
    """
    with _projects_locked(paths, exclusive=False):
        comparisons = _compare(paths, templates)
    found = [diagnostic for comparison in comparisons for diagnostic in drift(comparison)]
    if found:
        raise DiagnosticError(sorted(found, key=lambda diagnostic: diagnostic.path))
    names = " and ".join(map(str, paths))
    return f"all {sum(each.num_files for each in comparisons)} files are up to date with {names}"


@contextmanager
def _projects_locked(paths: Sequence[Path], *, exclusive: bool) -> Iterator[None]:
    roots = {find_project(path).root.absolute(): find_project(path).root for path in paths}
    with ExitStack() as stack:
        for _, root in sorted(roots.items()):
            stack.enter_context(locked(root, exclusive=exclusive))
        yield


def _compare(paths: Sequence[Path], templates: Path | None) -> list[Comparison]:
    """Compile catalogues and compare the outcome with the files on disk, project by project."""
    catalogues = lint_all(paths)
    from d9d_codegen.render import notice, render  # noqa: PLC0415 -- templates are not loaded for an invalid catalogue

    projects: dict[Path, Project] = {}
    declared: dict[Path, list[Declared]] = {}
    for catalogue in catalogues:
        path = catalogue.source.path
        project = find_project(path)
        projects[project.root] = project
        outputs = render(catalogue, replace(project, templates=templates or project.templates))
        each = Declared(path, project.name_of(path), notice(catalogue), outputs)
        declared.setdefault(project.root, []).append(each)
    return [
        compare(root, each, {projects[root].name_of(path) for path in projects[root].catalogues})
        for root, each in declared.items()
    ]
