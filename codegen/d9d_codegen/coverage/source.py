"""Python source for `coverage`: its files, and what the names in them stand for, from file to file."""

import ast
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Source, Span

Bindings = dict[str, str | None]  # a name, and the dotted path that it stands for; None where that is unknown


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
        """Return the position of a node, cut at the end of its first line; the parser counts columns in bytes."""
        line = self.source.line(node.lineno)
        start = len(line.encode()[: node.col_offset].decode(errors="replace"))
        is_one_line = node.end_lineno == node.lineno and node.end_col_offset is not None
        end = len(line.encode()[: node.end_col_offset].decode(errors="replace")) if is_one_line else len(line)
        return Span(node.lineno, start + 1, max(1, end - start))

    def imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """Yield each name that an import binds and what it stands for; `*` for all names of a module."""
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
    files = []
    for path in found:
        try:
            files.append(_read(path))
        except DiagnosticError as refused:
            diagnostics += refused.diagnostics
    if diagnostics:
        raise DiagnosticError(diagnostics)
    if not files:
        shown = Path(", ".join(map(str, paths)))
        raise DiagnosticError(
            [Diagnostic(shown, "no-source", "there is no Python source here", "name a folder with Python files")]
        )
    return files


def _read(path: Path) -> PythonFile:
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        tree = ast.parse(text)
    except SyntaxError as error:
        line, column = error.lineno or 1, max(1, error.offset or 1)
        source = Source(path, text)
        diagnostic = Diagnostic(
            path, "bad-python", f"the file does not parse: {error.msg}", "correct the syntax", Span(line, column, 1)
        )
        raise DiagnosticError([_with_line(diagnostic, source.line(line))]) from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DiagnosticError(
            [
                Diagnostic(
                    path, "bad-python", f"the file cannot be read: {error}", "correct the file, or its permissions"
                )
            ]
        ) from None
    parts = _module_parts(path)
    is_package = path.name == "__init__.py"
    return PythonFile(Source(path, text), ".".join(parts), is_package, tree)


def _with_line(diagnostic: Diagnostic, line: str) -> Diagnostic:
    return Diagnostic(diagnostic.path, diagnostic.rule, diagnostic.message, diagnostic.remedy, diagnostic.span, line)


def _module_parts(path: Path) -> list[str]:
    """Return the dotted name of a file, as far up as its folders are packages."""
    resolved = path.resolve()
    parts = [] if resolved.name == "__init__.py" else [resolved.stem]
    folder = resolved.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return parts


_MAX_HOPS: Final = 20  # a longer chain of re-exports is a cycle


class Names:
    """The module-level names of all given files.

    Args:
        files: The files.
        declared: The full paths of the constants that the catalogue declares.
    """

    def __init__(self, files: Iterable[PythonFile], declared: Iterable[str]) -> None:
        self._declared = frozenset(declared)
        self._own: dict[Path, tuple[Bindings, list[str]]] = {}
        self._stars: dict[str, list[str]] = {}
        self._bindings: dict[str, Bindings] = {}
        for file in files:
            bindings, stars = self._own[file.source.path] = ({}, [])
            bind(file, file.tree.body, bindings, stars)
            self._bindings.setdefault(file.module, bindings)  # scripts in different folders may share a name
            self._stars.setdefault(file.module, stars)

    def of(self, file: PythonFile) -> Bindings:
        """Return what the names of a file's own module stand for."""
        return self._own[file.source.path][0]

    def resolve(self, node: ast.expr, bindings: Bindings, file: PythonFile) -> str | None:
        """Return the full dotted path that an expression stands for, or None where it is unknown.

        Args:
            node: A name, or an attribute of one.
            bindings: The names in scope.
            file: The file that contains it.
        """
        dotted = _dotted(node)
        if dotted is None:
            return None
        first, _, rest = dotted.partition(".")
        if first in bindings:
            path = bindings[first]
            return self._follow(f"{path}.{rest}" if rest else path) if path else None
        for module in self._own[file.source.path][1]:
            found = self._follow(f"{module}.{dotted}")
            if found in self._declared:
                return found
        return None

    def _follow(self, path: str) -> str:
        """Return what a path stands for after following the re-exports of the given files."""
        for _ in range(_MAX_HOPS):
            module, _, name = path.rpartition(".")
            onwards = None if path in self._declared else self._bindings.get(module, {}).get(name)
            if not onwards or onwards == path:
                star = self._through_star(module, name) if path not in self._declared else None
                return star or path
            path = onwards
        return path

    def _through_star(self, module: str, name: str) -> str | None:
        candidates = (f"{origin}.{name}" for origin in self._stars.get(module, ()))
        return next((path for path in candidates if path in self._declared), None)


def bind(file: PythonFile, body: Iterable[ast.stmt], bindings: Bindings, stars: list[str] | None = None) -> None:
    """Add what a block of statements binds, except inside functions and classes.

    Args:
        file: The file that contains the block.
        body: The statements.
        bindings: The names in scope; changed.
        stars: Takes the modules from which all names are imported.
    """
    for statement in body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                _import(file, statement, bindings, stars if stars is not None else [])
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    _assign(file, target, value, bindings)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                _assign(file, target, value, bindings)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bindings[name] = f"{file.module}.{name}"
            case _:
                for block in blocks(statement):
                    bind(file, block, bindings, stars)


def _import(file: PythonFile, statement: ast.Import | ast.ImportFrom, bindings: Bindings, stars: list[str]) -> None:
    for name, path in file.imported(statement):
        if name == "*":
            stars.append(path)
        else:
            bindings[name] = path


def blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Yield the blocks of statements within a statement."""
    yield [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.ExceptHandler | ast.match_case):
            yield child.body


def _assign(file: PythonFile, target: ast.expr, value: ast.expr, bindings: Bindings) -> None:
    """Add an assignment: another name for something known, or a new name of this module."""
    if not isinstance(target, ast.Name):
        return
    dotted = _dotted(value)
    first, _, rest = (dotted or "").partition(".")
    known = bindings.get(first)
    if known:
        bindings[target.id] = f"{known}.{rest}" if rest else known
    else:
        bindings[target.id] = f"{file.module}.{dotted or target.id}"  # possibly imported by a star


def _dotted(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            above = _dotted(value)
            return f"{above}.{attribute}" if above else None
        case _:
            return None
