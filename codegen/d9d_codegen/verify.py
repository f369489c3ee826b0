"""Generated modules checked by mypy and by importing them, with errors reported at positions of the catalogue."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_codegen.catalogue import Catalogue, Context, Module, Scope
from d9d_codegen.diagnostic import START, Diagnostic, DiagnosticError, Span
from d9d_codegen.expression import names_in_type, parse_type, split
from d9d_codegen.imported import Difference
from d9d_codegen.lint import lint_all
from d9d_codegen.project import Project, find_project


def origins(catalogue: Catalogue, module: Module, text: str) -> dict[int, Span]:
    """Map the lines of a generated module to positions in the catalogue.

    The text itself is parsed, so that this works with any template.

    Args:
        catalogue: A valid catalogue.
        module: The module.
        text: The source that was generated for it.

    Returns:
        The position for each line that has one: for a field its type, for an event's constant its context, for an
            import
        the first mention of what is imported.
    """
    found: dict[int, Span] = {}
    mentions = dict(reversed([*_mentions(catalogue, module)]))
    contexts = {str(context.name): context for context in module.contexts}
    events = {str(event.name): event.context.span for event in module.events}
    for statement in ast.parse(text).body:
        match statement:
            case ast.ImportFrom(module=str() as source, names=aliases):
                places = [(alias.lineno, mentions.get(f"{source}.{alias.name}")) for alias in aliases]
                given = [(statement.lineno, next((place for _, place in places if place), None)), *places]
                found |= {line: place for line, place in given if place}
            case ast.Import(names=[ast.alias(name=source)]):
                place = next((place for path, place in mentions.items() if path.startswith(f"{source}.")), None)
                found |= {statement.lineno: place} if place else {}
            case ast.ClassDef(name=name) if name in contexts:
                found |= _lines(statement, contexts[name].name.span) | _fields(statement, contexts[name])
            case ast.AnnAssign(target=ast.Name(id=name)) if name in events:
                found |= _lines(statement, events[name])
    return found


def _fields(statement: ast.ClassDef, context: Context) -> dict[int, Span]:
    types = {str(field.name): field.type.span for field in context.fields}
    found: dict[int, Span] = {}
    for inner in statement.body:
        match inner:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) if name in types:
                found |= _lines(inner, types[name])
    return found


def _lines(statement: ast.stmt, place: Span) -> dict[int, Span]:
    first = min([statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", ()))])
    return dict.fromkeys(range(first, (statement.end_lineno or statement.lineno) + 1), place)


def _mentions(catalogue: Catalogue, module: Module) -> Iterator[tuple[str, Span]]:
    """Yield what a module may import, with each position that mentions it."""
    scope = Scope(catalogue, module)
    for context in module.contexts:
        for field in context.fields:
            for name in names_in_type(field.type):
                path = scope.resolve(name.path) or name.path
                if "." in path:
                    place = catalogue.source.within(field.type, name.offset, len(name.path))
                    yield ".".join(split(path)[:2]), place
    for event in module.events:
        path = scope.resolve(event.context) or event.context
        yield ".".join(split(path)[:2]), event.context.span


_OPTIONS: Final = ("--output=json", "--follow-imports=silent", "--no-error-summary", "--show-column-numbers")
_MISSING: Final = "No module named mypy"
_CHANGED: Final = "importing a module that its types come from changes this class: use types of another module"


def typecheck(paths: Sequence[Path]) -> int:
    """Run mypy, with the project's own configuration, over the generated modules of catalogues.

    Args:
        paths: The catalogues; their modules on disk are up to date.

    Returns:
        The number of modules.

    Raises:
        DiagnosticError: mypy is missing, crashed, or reported an error.
    """
    diagnostics: list[Diagnostic] = []
    num_modules = 0
    for catalogue in lint_all(paths):
        num_modules += len(catalogue.modules)
        diagnostics += _diagnostics(catalogue, find_project(catalogue.source.path))
    if diagnostics:
        raise DiagnosticError(diagnostics)
    return num_modules


def check_imports(paths: Sequence[Path]) -> int:
    """Import the generated modules of catalogues in a separate process, and compare their contexts.

    Args:
        paths: The catalogues; their modules on disk are up to date.

    Returns:
        The number of contexts.

    Raises:
        DiagnosticError: A module cannot be imported, or a context differs from its declaration.
    """
    diagnostics: list[Diagnostic] = []
    num_contexts = 0
    for catalogue in lint_all(paths):
        num_contexts += sum(len(module.own_contexts) for module in catalogue.modules)
        found = _import_diagnostics(catalogue, find_project(catalogue.source.path))
        diagnostics += sorted(found, key=lambda diagnostic: (diagnostic.span or START, diagnostic.message))
    if diagnostics:
        raise DiagnosticError(diagnostics)
    return num_contexts


def _import_diagnostics(catalogue: Catalogue, project: Project) -> Iterator[Diagnostic]:
    modules = {f"{catalogue.package}.{module.name}": module for module in catalogue.modules}
    declared = {path: declared_types(catalogue, module) for path, module in modules.items()}
    result = subprocess.run(
        [sys.executable, "-m", "d9d_codegen.imported"],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": _search_path(catalogue, project, "PYTHONPATH")},
        input=json.dumps(declared),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    try:
        differences = [Difference(*each) for each in json.loads(result.stdout)] if result.returncode == 0 else None
    except ValueError:  # the process ended before it had an answer
        differences = None
    if differences is None:
        message = f"importing the generated modules ended the process with status {result.returncode}"
        remedy = "a module that they import ends the process: remove what does so, such as a call of `sys.exit`"
        yield Diagnostic(catalogue.source.path, "import-error", message, remedy, detail=result.stderr.strip())
        return
    for difference in differences:
        yield _import_diagnostic(catalogue, project, modules[difference.module], difference)


def _import_diagnostic(catalogue: Catalogue, project: Project, module: Module, difference: Difference) -> Diagnostic:
    """Return a difference at the position of the field, context or line that caused it."""
    name = f"the module {difference.module}"
    at, rule, remedy = module.name.span, "import-error", "correct what it imports"
    for context in module.own_contexts:
        if context.name == difference.context:
            name, at, rule, remedy = f"context {context.name}", context.name.span, "import-difference", _CHANGED
            for field in context.own_fields:
                if field.name == difference.field:
                    name, at = f"field {field.name} of {context.name}", field.type.span
    if difference.line is not None:
        file = project.root / project.package_folder(catalogue.package) / f"{module.name}.py"
        at = origins(catalogue, module, file.read_text(encoding="utf-8")).get(difference.line, at)
    line = catalogue.source.line(at.line)
    return Diagnostic(catalogue.source.path, rule, f"{name} {difference.message}", remedy, at, line)


def declared_types(catalogue: Catalogue, module: Module) -> dict[str, dict[str, str]]:
    """Return the types of the fields of a module's contexts, with full dotted paths."""
    scope = Scope(catalogue, module)
    return {
        context.name: {
            field.name: parse_type(field.type).write(lambda name: scope.resolve(name) or name)
            for field in context.own_fields
        }
        for context in module.own_contexts
    }


def _search_path(catalogue: Catalogue, project: Project, variable: str) -> str:
    """Return the value of a variable that lists folders of modules, with that of the generated package first."""
    top = project.package_folder(catalogue.package).parts[0]
    source = project.root / "src" if top == "src" else project.root
    given = os.environ.get(variable)
    return os.pathsep.join([str(source.absolute()), *([given] if given else [])])


def _diagnostics(catalogue: Catalogue, project: Project) -> list[Diagnostic]:
    """Return mypy's errors in file order."""
    folder = project.root / project.package_folder(catalogue.package)
    places = {}
    for module in catalogue.modules:
        file = folder / f"{module.name}.py"
        places[file.resolve()] = origins(catalogue, module, file.read_text(encoding="utf-8"))
    found = []
    for error in _mypy_errors(catalogue, project):
        file = (project.root / error["file"]).resolve()
        if error["severity"] != "error" or file not in places:
            continue
        span = places[file].get(error["line"], catalogue.package.span)
        where = f"reported by mypy at {os.path.relpath(file)}:{error['line']}"
        remedy = f"{where}; {error['hint']}" if error.get("hint") else where
        line = catalogue.source.line(span.line)
        found.append(Diagnostic(catalogue.source.path, _rule(error), error["message"], remedy, span, line))
    return sorted(
        dict.fromkeys(found), key=lambda diagnostic: (diagnostic.span or START, diagnostic.rule, diagnostic.message)
    )


def _rule(error: dict[str, Any]) -> str:
    return f"mypy-{error['code']}" if error.get("code") else "mypy"


def _mypy_errors(catalogue: Catalogue, project: Project) -> Iterator[dict[str, Any]]:
    modules = [f"--module={path}" for path in sorted(catalogue.module_paths)]
    result = subprocess.run(  # noqa: S603 -- mypy, and names that are checked
        [sys.executable, "-m", "mypy", *_OPTIONS, *modules],
        cwd=project.root,
        env={**os.environ, "MYPYPATH": _search_path(catalogue, project, "MYPYPATH")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode not in (0, 1) or _MISSING in result.stderr:
        raise DiagnosticError([_stopped(catalogue, result.stderr or result.stdout)])
    yield from (json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))


def _stopped(catalogue: Catalogue, output: str) -> Diagnostic:
    if _MISSING in output:
        remedy = "install mypy in the compiler's environment: pip install mypy"
        return Diagnostic(
            catalogue.source.path, "no-mypy", "the types cannot be checked: mypy is not installed", remedy
        )
    message = "mypy stopped before it finished"
    return Diagnostic(catalogue.source.path, "no-mypy", message, "fix what it reports", detail=output.strip())
