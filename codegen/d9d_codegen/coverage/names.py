"""What the names of many files stand for, followed from file to file."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from d9d_codegen.coverage.python_file import Bindings, PythonFile

_MAX_HOPS: Final = 20  # more re-exports in a row are a circle


class Names:
    """The module-level names of all files in view.

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
            self._bindings.setdefault(file.module, bindings)  # scripts of several folders may share a name
            self._stars.setdefault(file.module, stars)

    def of(self, file: PythonFile) -> Bindings:
        """Return what the names of a file's own module stand for."""
        return self._own[file.source.path][0]

    def resolve(self, node: ast.expr, bindings: Bindings, file: PythonFile) -> str | None:
        """Return the full dotted path that an expression stands for, or nothing where that cannot be told.

        Args:
            node: A name, or an attribute of one.
            bindings: The names in scope.
            file: The file that it stands in.
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
        """Return what a path stands for once the re-exports of the files in view are followed."""
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
    """Enter what a block of statements binds, but for the insides of functions and classes.

    Args:
        file: The file that the block stands in.
        body: The statements.
        bindings: The names in scope; changed.
        stars: Takes the modules all of whose names are imported.
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
    """Enter an assignment: another name for something known, or something new of this module."""
    if not isinstance(target, ast.Name):
        return
    dotted = _dotted(value)
    first, _, rest = (dotted or "").partition(".")
    known = bindings.get(first)
    if known:
        bindings[target.id] = f"{known}.{rest}" if rest else known
    else:
        bindings[target.id] = f"{file.module}.{dotted or target.id}"  # which a star may have brought


def _dotted(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            above = _dotted(value)
            return f"{above}.{attribute}" if above else None
        case _:
            return None
