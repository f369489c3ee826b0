"""One file of Python source, and what its names stand for."""

import ast
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from d9d_codegen.problem import Problem, RefusedError
from d9d_codegen.source import Source, Span

Bindings = dict[str, str | None]  # a name, and the dotted path that it stands for; nothing where that is not known


@dataclass(frozen=True)
class PythonFile:
    """A file of Python source.

    Attributes:
        source: Its text.
        module: The dotted name that it is imported by.
        is_package: Whether it is the `__init__.py` of a package.
        tree: Its syntax tree.
    """

    source: Source
    module: str
    is_package: bool
    tree: ast.Module

    def span(self, node: ast.expr | ast.stmt) -> Span:
        """Return the place of a node, cut at the end of its first line; the parser counts columns in bytes."""
        line = self.source.line(node.lineno)
        start = len(line.encode()[: node.col_offset].decode(errors="replace"))
        is_one_line = node.end_lineno == node.lineno and node.end_col_offset is not None
        end = len(line.encode()[: node.end_col_offset].decode(errors="replace")) if is_one_line else len(line)
        return Span(node.lineno, start + 1, max(1, end - start))

    def imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """Yield each name that an import binds, and what it stands for; `*` for all the names of a module."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
            return
        origin = node.module or ""
        if node.level:
            parts = self.module.split(".")
            package = parts[: len(parts) - node.level + self.is_package]
            origin = ".".join([*package, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, origin if alias.name == "*" else f"{origin}.{alias.name}"


def python_files(paths: Iterable[Path]) -> list[PythonFile]:
    """Read files, and all files of Python source in folders, each once, in the order of their paths.

    Raises:
        RefusedError: There is no such path, or a file is no Python source.
    """
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 -- a name may be too long, which a Path would raise
            found |= dict.fromkeys(sorted(path.rglob("*.py")))
        elif os.path.isfile(path):  # noqa: PTH113 -- the same
            found[path] = None
        else:
            problems.append(Problem(path, "unreadable", "there is no such file or folder", "name one that there is"))
    files = []
    for path in found:
        try:
            files.append(_read(path))
        except RefusedError as refused:
            problems += refused.problems
    if problems:
        raise RefusedError(problems)
    if not files:
        shown = Path(", ".join(map(str, paths)))
        raise RefusedError(
            [Problem(shown, "no-source", "there is no Python source here", "name a folder that has some")]
        )
    return files


def _read(path: Path) -> PythonFile:
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        tree = ast.parse(text)
    except SyntaxError as error:
        line, column = error.lineno or 1, max(1, error.offset or 1)
        source = Source(path, text)
        problem = Problem(path, "bad-python", f"the file does not parse: {error.msg}", "mend it", Span(line, column, 1))
        raise RefusedError([_with_line(problem, source.line(line))]) from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise RefusedError([Problem(path, "bad-python", f"the file cannot be read: {error}", "mend it")]) from None
    parts = _module_parts(path)
    is_package = path.name == "__init__.py"
    return PythonFile(Source(path, text), ".".join(parts), is_package, tree)


def _with_line(problem: Problem, line: str) -> Problem:
    return Problem(problem.path, problem.rule, problem.message, problem.remedy, problem.span, line)


def _module_parts(path: Path) -> list[str]:
    """Return the dotted name of a file, as far up as its folders are packages."""
    resolved = path.resolve()
    parts = [] if resolved.name == "__init__.py" else [resolved.stem]
    folder = resolved.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return parts
