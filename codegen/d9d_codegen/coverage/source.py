"""The Python source that `coverage` reads."""

import ast
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from d9d_check.source import Module, read_modules, summarise
from d9d_check.store import Store
from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Source, Span


def read_source(paths: Iterable[Path]) -> list[Module]:
    """Read files, and all Python files in folders, each once, in the order of their paths.

    Raises:
        DiagnosticError: There is no such path, or a file is not Python source.
    """
    found: dict[Path, None] = {}
    diagnostics = []
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 -- Path raises where a name is too long
            found |= dict.fromkeys(sorted(path.rglob("*.py")))
        elif os.path.isfile(path):  # noqa: PTH113 -- the same
            found[path] = None
        else:
            diagnostics.append(Diagnostic(path, "unreadable", "there is no such file or folder", "check the path"))
    modules = read_modules([*found], [])
    store = Store(None)
    for module in modules:
        if not module.problem:
            summarise(module, store)
        if module.problem:
            diagnostics.append(_why_unread(module))
    if diagnostics:
        raise DiagnosticError(diagnostics)
    if not found:
        shown = Path(", ".join(map(str, paths)))
        raise DiagnosticError(
            [Diagnostic(shown, "no-source", "there is no Python source here", "name a folder with Python files")]
        )
    return modules


def _why_unread(module: Module) -> Diagnostic:
    message = f"the file {module.problem}"
    refused = Diagnostic(module.path, "bad-python", message, "correct the file, or its permissions")
    try:
        ast.parse(module.text)
    except SyntaxError as error:
        line, column = error.lineno or 1, max(1, error.offset or 1)
        return dataclasses.replace(
            refused,
            message=f"the file does not parse: {error.msg}",
            remedy="correct the syntax",
            span=Span(line, column, 1),
            line=Source(module.path, module.text).line(line),
        )
    except (ValueError, RecursionError, MemoryError) as error:
        return dataclasses.replace(refused, message=f"the file cannot be read: {error}")
    return refused
