"""The names that a Python source or stub gives its module, read from the text of it."""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

_STAR: Final = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+\*", re.MULTILINE)
_IMPORT: Final = r"^from[ \t]+([\w.]+)[ \t]+import[ \t]+(?:\([^)]*?|[^(#\n]*?)\b{name}\b(?![ \t]+as[ \t]+(?!{name}\b))"
_DEFINITION: Final = r"^(?:class|def|async[ \t]+def)[ \t]+{name}\b|^{name}[ \t]*(?::|=(?!=))"
_PATCH: Final = r"^{name}\.[\w.]+[ \t]*=|\bsetattr\({name}\b"  # what a class is given after its body


@dataclass
class Names:
    """The names of a module.

    Attributes:
        defined: What its source defines, or imports as a module.
        imported: What it imports from elsewhere, by name: the module, and the name there.
        stars: The modules of which it imports all names.
        is_open: Whether it may have names that its source does not show.
    """

    defined: set[str] = field(default_factory=set)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    is_open: bool = False


class ModuleText:
    """The text of a module.

    Args:
        text: Its source or stub.
        package: The package that its relative imports start from.
    """

    def __init__(self, text: str, package: str) -> None:
        self._text = text
        self._package = package

    def glimpse(self, name: str) -> tuple[str, str] | bool:
        """Look for a name without reading all of the text, which takes long where a module is large.

        Returns:
            Whether the text defines the name at its top level, or the module and the name that it is imported from.
        """
        if name not in self._text:
            return False
        if f"\nclass {name}(" in self._text or f"\nclass {name}:" in self._text:
            return True
        escaped = re.escape(name)
        if re.search(_DEFINITION.format(name=escaped), self._text, re.MULTILINE):
            return True
        found = re.search(_IMPORT.format(name=escaped), self._text, re.MULTILINE)
        return (_absolute(found[1], self._package), name) if found else False

    @cached_property
    def stars(self) -> list[str]:
        """The modules of which all names seem to be imported."""
        return [_absolute(module, self._package) for module in _STAR.findall(self._text)]

    @cached_property
    def _tree(self) -> ast.Module | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self._text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    @cached_property
    def names(self) -> Names:
        """All names of the module; open where the text is no Python of this version."""
        return Names(is_open=True) if self._tree is None else _names_in(self._tree.body, self._package)

    def class_body(self, name: str) -> "ClassBody | None":
        """Return the class that the text defines by a name; nothing where it defines none, or several."""
        found = _class_in(self._tree.body, name) if self._tree else None
        is_patched = re.search(_PATCH.format(name=re.escape(name)), self._text, re.MULTILINE)
        return replace(found, is_open=True) if found and is_patched else found

    def mentions(self, name: str) -> bool:
        """Return whether a word stands anywhere in the text."""
        return name in self._text and re.search(rf"\b{re.escape(name)}\b", self._text) is not None


@dataclass
class ClassBody:
    """What a class holds.

    Attributes:
        names: The names in its body.
        is_open: Whether it may have more, from a base or a decorator.
        body: Its statements.
    """

    names: set[str]
    is_open: bool
    body: list[ast.stmt]

    def inner(self, name: str) -> "ClassBody | None":
        """Return the class that it defines by a name; nothing where it defines none, or several."""
        return _class_in(self.body, name)


def _class_in(body: list[ast.stmt], name: str) -> ClassBody | None:
    found = [node for node in _statements(body) if isinstance(node, ast.ClassDef) and node.name == name]
    if len(found) != 1:
        return None
    [node] = found
    names = _names_in(node.body, "")
    is_open = bool(node.bases or node.keywords or node.decorator_list or names.is_open)
    return ClassBody(names.defined | names.imported.keys(), is_open, node.body)


def _names_in(body: list[ast.stmt], package: str) -> Names:
    names = Names()
    for statement in _statements(body):
        _read(statement, names, package)
    return names


def _absolute(module: str, package: str) -> str:
    """Return the full name of a module that may be named from where it is imported: `.sibling`."""
    relative = module.lstrip(".")
    num_dots = len(module) - len(relative)
    if not num_dots:
        return module
    parts = package.split(".")
    above = parts[: len(parts) - num_dots + 1]
    return ".".join([*above, relative] if relative else above)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported, on whatever branch they stand."""
    for statement in body:
        yield statement
        for block in ("body", "orelse", "finalbody"):
            if not isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _statements(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body)


def _read(statement: ast.stmt, names: Names, package: str) -> None:
    match statement:
        case ast.FunctionDef(name="__getattr__"):
            names.is_open = True
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            names.defined.add(name)
        case ast.Import(names=aliases):
            names.defined |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
        case ast.ImportFrom(module=module, names=aliases, level=level):
            _import(_absolute("." * level + (module or ""), package), aliases, names)
        case ast.Assign(targets=targets):
            _assign(targets, names)
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.For(target=target):
            _assign([target], names)
        case ast.Expr(value=ast.Call()) if "globals()" in ast.unparse(statement):
            names.is_open = True


def _import(source: str, aliases: list[ast.alias], names: Names) -> None:
    for alias in aliases:
        if alias.name == "*":
            names.stars.append(source)
        else:
            names.imported[alias.asname or alias.name] = (source, alias.name)


def _assign(targets: list[ast.expr], names: Names) -> None:
    for target in targets:
        match target:
            case ast.Name(id=name):
                names.defined.add(name)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                _assign(elements, names)
            case ast.Subscript(value=ast.Call(func=ast.Name(id="globals" | "vars"))):
                names.is_open = True
            case ast.Subscript(value=ast.Attribute(attr="modules")):  # sys.modules[__name__] = something else
                names.is_open = True
