"""The type checker's word on generated modules, told at the lines of the catalogue that caused it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_codegen.lint import examine_all
from d9d_codegen.model import Catalogue
from d9d_codegen.origin import origins
from d9d_codegen.problem import Problem, RefusedError
from d9d_codegen.project import Project, find_project
from d9d_codegen.source import START

_OPTIONS: Final = ("--output=json", "--follow-imports=silent", "--no-error-summary", "--show-column-numbers")
_MISSING: Final = "No module named mypy"


def typecheck(paths: Sequence[Path]) -> int:
    """Run mypy, in the way that the project has it configured, over the generated modules of catalogues.

    Args:
        paths: The catalogues, whose modules on disk are as they say.

    Returns:
        The number of modules.

    Raises:
        RefusedError: mypy is missing, did not run to its end, or found something.
    """
    problems: list[Problem] = []
    num_modules = 0
    for catalogue in examine_all(paths):
        num_modules += len(catalogue.modules)
        problems += _problems(catalogue, find_project(catalogue.source.path))
    if problems:
        raise RefusedError(problems)
    return num_modules


def _problems(catalogue: Catalogue, project: Project) -> list[Problem]:
    """Return what mypy finds, in file order."""
    folder = project.root / project.package_folder(catalogue.package)
    places = {}
    for module in catalogue.modules:
        file = folder / f"{module.name}.py"
        places[file.resolve()] = origins(catalogue, module, file.read_text(encoding="utf-8"))
    found = []
    for complaint in _complaints(catalogue, project):
        file = (project.root / complaint["file"]).resolve()
        if complaint["severity"] != "error" or file not in places:
            continue
        span = places[file].get(complaint["line"], catalogue.package.span)
        told = f"mypy says so of {os.path.relpath(file)}:{complaint['line']}"
        remedy = f"{told}; {complaint['hint']}" if complaint.get("hint") else told
        line = catalogue.source.line(span.line)
        found.append(Problem(catalogue.source.path, _rule(complaint), complaint["message"], remedy, span, line))
    return sorted(dict.fromkeys(found), key=lambda problem: (problem.span or START, problem.rule, problem.message))


def _rule(complaint: dict[str, Any]) -> str:
    return f"mypy-{complaint['code']}" if complaint.get("code") else "mypy"


def _complaints(catalogue: Catalogue, project: Project) -> Iterator[dict[str, Any]]:
    modules = [f"--module={path}" for path in sorted(catalogue.module_paths)]
    top = project.package_folder(catalogue.package).parts[0]
    source = project.root / "src" if top == "src" else project.root
    given = os.environ.get("MYPYPATH")
    search = os.pathsep.join([str(source.absolute()), *([given] if given else [])])
    result = subprocess.run(  # noqa: S603 -- mypy, and names that are checked
        [sys.executable, "-m", "mypy", *_OPTIONS, *modules],
        cwd=project.root,
        env={**os.environ, "MYPYPATH": search},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode not in (0, 1) or _MISSING in result.stderr:
        raise RefusedError([_stopped(catalogue, result.stderr or result.stdout)])
    yield from (json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))


def _stopped(catalogue: Catalogue, said: str) -> Problem:
    if _MISSING in said:
        remedy = 'install it where the compiler is: pip install "d9d[mypy]"'
        return Problem(catalogue.source.path, "no-mypy", "the types cannot be checked: mypy is not installed", remedy)
    message = "mypy did not run to its end"
    return Problem(catalogue.source.path, "no-mypy", message, "mend what it says", detail=said.strip())
