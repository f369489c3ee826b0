"""Which modules and names a catalogue can mention, found in sources and stubs without executing their code."""

import ast
import importlib
import json
import operator
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final, NamedTuple

from d9d_codegen.diagnostic import closest
from d9d_codegen.expression import split

SOURCES: Final = (".pyi", ".py")
SPECIAL: Final = ("ClassVar", "InitVar", "KW_ONLY")  # what a dataclass does not take for the type of a field
_BINARIES: Final = (*EXTENSION_SUFFIXES, ".pyc")


class Location(NamedTuple):
    """Where a module is.

    Attributes:
        folders: Where its submodules are, if it is a package.
        file: What its names are read from: its source, or the stub of a module without source.
        is_native: Whether it has no source, as an extension module: its names are those of its stub, if it has one.
        stub: A stub of names that it may not have when it is imported.
    """

    folders: tuple[str, ...] = ()
    file: str | None = None
    is_native: bool = False
    stub: str | None = None

    @property
    def is_opaque(self) -> bool:
        """Whether its names cannot be read."""
        return self.is_native and self.file is None


def find_in(name: str, folders: Iterable[str]) -> Location | None:
    """Look for a module in folders, as Python does."""
    spaces: list[str] = []
    stub = None
    for folder in folders:
        base = f"{folder}{os.sep}{name}"
        init = f"{base}{os.sep}__init__"
        is_folder = _is_folder(base)
        stubs = (f"{base}.pyi", f"{init}.pyi") if is_folder else (f"{base}.pyi",)
        found = next((file for file in stubs if _is_file(file)), None)
        if is_folder and _is_file(f"{init}.py"):
            return Location((base,), f"{init}.py")
        if is_folder and any(_is_file(init + suffix) for suffix in _BINARIES):
            return Location((base,), found, is_native=True)
        if any(_is_file(base + suffix) for suffix in _BINARIES):
            return Location((base,) if is_folder else (), found, is_native=True)
        if _is_file(f"{base}.py"):
            return Location((), f"{base}.py")
        spaces += [base] if is_folder else []
        stub = stub or found
    return Location(tuple(spaces), stub=stub) if spaces or stub else None


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 -- strings are several times as fast as Path


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 -- as above


def find_through_hooks(name: str) -> Location | None:
    """Ask Python's import hooks, such as those of an editable installation, for a top-level module."""
    from importlib.util import find_spec  # noqa: PLC0415 -- rarely needed

    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    folders = tuple(spec.submodule_search_locations or ())
    is_source = spec.origin is not None and spec.origin.endswith(".py") and _is_file(spec.origin)
    return Location(folders, spec.origin) if is_source else Location(folders, is_native=True)


def listing(folder: str) -> Iterator[str]:
    """Yield the names in a folder; none where it cannot be read."""
    try:
        yield from os.listdir(folder)  # noqa: PTH208 -- only names are needed
    except OSError:
        return


def read_module(file: str) -> str:
    """Return the text of a module; where the file cannot be read, a text that does not parse and so hides its names."""
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 -- as above
            return opened.read()
    except OSError:
        return "("


_STAR: Final = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+\*", re.MULTILINE)
_IMPORT: Final = r"^from[ \t]+([\w.]+)[ \t]+import[ \t]+(?:\([^)]*?|[^(#\n]*?)\b{name}\b(?![ \t]+as[ \t]+(?!{name}\b))"
_DEFINITION: Final = r"^(?:class|def|async[ \t]+def)[ \t]+{name}\b|^{name}[ \t]*(?::[^=\n]*)?=(?!=)"
_STUB_DEFINITION: Final = r"^(?:class|def|async[ \t]+def)[ \t]+{name}\b|^{name}[ \t]*(?::|=(?!=))"
_AS: Final = re.compile(r"\bas[ \t]+$")
_ASSIGNED: Final = re.compile(r"[ \t]*(?::[^=\n]*)?=(?!=)")
_MAX_SPACES: Final = 40
_DELETION: Final = re.compile(r"^[ \t]*del\b[^\n(]*(?:\([^)]*\))?[^\n]*", re.MULTILINE)
_PATCH: Final = r"^{name}\.[\w.]+[ \t]*=|\bsetattr\({name}\b"  # attributes that are set outside the class body


@dataclass
class Names:
    """The names of a module.

    Attributes:
        defined: What its source defines, or imports as a module.
        imported: What it imports from elsewhere: by name, the module and the name there.
        modules: What it imports as a module: by name, the full name of the module.
        aliases: What is only another name for something: by name, the dotted expression that is assigned to it.
        deleted: The names that a `del` takes away again.
        stars: The modules from which it imports all names.
        is_open: Whether it may have names that its source does not show.
        is_stub: Whether they are those of a stub, where an annotation alone defines a name.
    """

    defined: set[str] = field(default_factory=set)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    stars: list[str] = field(default_factory=list)
    is_open: bool = False
    is_stub: bool = False


class ModuleText:
    """The text of a module.

    Args:
        text: Its source or stub.
        package: The package that its relative imports start from.
        is_stub: Whether it is a stub.
    """

    def __init__(self, text: str, package: str, *, is_stub: bool = False) -> None:
        self._text = text
        self._package = package
        self._is_stub = is_stub

    def glimpse(self, name: str) -> tuple[str, str] | bool:
        """Look for a name with regular expressions, since parsing a large module takes long.

        Returns:
            Whether the text defines the name at its top level, or the module and name that it is imported from.
        """
        if name not in self._text:
            return False
        if f"\nclass {name}(" in self._text or f"\nclass {name}:" in self._text:
            return True
        escaped = re.escape(name)
        definition = _STUB_DEFINITION if self._is_stub else _DEFINITION
        if re.search(definition.format(name=escaped), self._text, re.MULTILINE):
            return True
        found = re.search(_IMPORT.format(name=escaped), self._text, re.MULTILINE)
        return (_absolute(found[1], self._package), name) if found else False

    @cached_property
    def stars(self) -> list[str]:
        """The modules from which all names seem to be imported."""
        found = list(_STAR.finditer(self._text))
        if "TYPE_CHECKING" in self._text and any(match[0][0].isspace() for match in found):
            return self.names.stars
        return [_absolute(match[1], self._package) for match in found]

    def may_rename(self, name: str) -> bool:
        """Return whether a name seems to be another name for something."""
        for match in re.finditer(rf"\b{re.escape(name)}\b", self._text):
            before = self._text[max(0, match.start() - _MAX_SPACES) : match.start()]
            is_at_start = not before or before[-1] == "\n"
            if _AS.search(before) or (is_at_start and _ASSIGNED.match(self._text, match.end())):
                return True
        return False

    def may_delete(self, name: str) -> bool:
        """Return whether a `del` seems to take a name away again."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        return any(word.search(statement) for statement in _DELETION.findall(self._text))

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
        """All names of the module; open where the text does not parse."""
        if self._tree is None:
            return Names(is_open=True)
        return _names_in(self._tree.body, self._package, is_stub=self._is_stub)

    @cached_property
    def names_for_checkers(self) -> set[str]:
        """The names that only a type checker sees, and those of branches for other Pythons and systems."""
        found = Names()
        for node in ast.walk(self._tree) if self._tree else ():
            if isinstance(node, ast.If) and _truth(node.test) is not None:
                for statement in _statements(node.orelse if _truth(node.test) else node.body):
                    _read(statement, found, self._package)
        return found.defined | found.imported.keys()

    def class_body(self, name: str) -> "ClassBody | None":
        """Return the class that the text defines under a name; None where it defines none, or several."""
        found = _class_in(self._tree.body, name) if self._tree else None
        is_patched = re.search(_PATCH.format(name=re.escape(name)), self._text, re.MULTILINE)
        return replace(found, is_open=True) if found and is_patched else found

    def mentions_any_of(self, names: Iterable[str]) -> bool:
        """Return whether any of some words appears in the text."""
        return any(name in self._text for name in names)

    def mentions(self, name: str) -> bool:
        """Return whether a word appears anywhere in the text."""
        return name in self._text and re.search(rf"\b{re.escape(name)}\b", self._text) is not None


@dataclass
class ClassBody:
    """The contents of a class.

    Attributes:
        names: The names in its body.
        is_open: Whether it may have more names, from a base class or a decorator.
        body: Its statements.
    """

    names: set[str]
    is_open: bool
    body: list[ast.stmt]

    def inner(self, name: str) -> "ClassBody | None":
        """Return the class that it defines under a name; None where it defines none, or several."""
        return _class_in(self.body, name)


def _class_in(body: list[ast.stmt], name: str) -> ClassBody | None:
    found = [node for node in _statements(body) if isinstance(node, ast.ClassDef) and node.name == name]
    if len(found) != 1:
        return None
    [node] = found
    names = _names_in(node.body, "")
    is_open = bool(node.bases or node.keywords or node.decorator_list or names.is_open)
    return ClassBody(names.defined | names.imported.keys(), is_open, node.body)


def _all_of(text: ModuleText) -> set[str]:
    return text.names.defined | text.names.imported.keys()


def _names_in(body: list[ast.stmt], package: str, *, is_stub: bool = False) -> Names:
    names = Names(is_stub=is_stub)
    for statement in _statements(body):
        _read(statement, names, package)
    return names


def _absolute(module: str, package: str) -> str:
    """Return the full name of a module that may be named relatively, as in `.sibling`."""
    relative = module.lstrip(".")
    num_dots = len(module) - len(relative)
    if not num_dots:
        return module
    parts = package.split(".")
    above = parts[: len(parts) - num_dots + 1]
    return ".".join([*above, relative] if relative else above)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that may run when a module is imported, from every branch that is not for others."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If):
            truth = _truth(statement.test)
            inner = [*(statement.body if truth is not False else []), *(statement.orelse if truth is not True else [])]
            yield from (child for child in _statements(inner) if truth is not None or not isinstance(child, ast.Delete))
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body)


def _truth(test: ast.expr) -> bool | None:
    """Return whether a condition holds when this Python imports the module, if that is known."""
    truth: bool | None = None
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            truth = False
        case ast.Constant(value=value):
            truth = bool(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _truth(operand)
            truth = None if inner is None else not inner
        case ast.BoolOp(op=ast.And() | ast.Or() as op, values=values):
            decisive = isinstance(op, ast.Or)
            truth = decisive if any(_truth(value) is decisive for value in values) else None
        case ast.Compare(left=ast.Attribute(attr="version_info"), ops=[order], comparators=[ast.Tuple() as version]):
            with suppress(ValueError, TypeError, KeyError):
                truth = _ORDERS[type(order)](tuple(sys.version_info), ast.literal_eval(version))
    return truth


def _read(statement: ast.stmt, names: Names, package: str) -> None:
    match statement:
        case ast.FunctionDef(name="__getattr__"):
            names.is_open = True
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            _define(name, names)
        case ast.Import() | ast.ImportFrom():
            _import(statement, names, package)
        case ast.Assign(targets=targets, value=value):
            _assign(targets, names)
            if isinstance(targets[0], ast.Name) and isinstance(value, ast.Name | ast.Attribute):
                names.aliases[targets[0].id] = ast.unparse(value)
        case ast.AnnAssign(value=None) if not names.is_stub:
            return  # it binds nothing
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.For(target=target):
            _assign([target], names)
        case ast.Delete(targets=targets):
            _delete(targets, names)
        case ast.Expr(value=ast.Call()) if "globals()" in ast.unparse(statement):
            names.is_open = True


def _define(name: str, names: Names) -> None:
    names.imported.pop(name, None)
    names.aliases.pop(name, None)
    names.modules.pop(name, None)
    names.deleted.discard(name)
    names.defined.add(name)


def _delete(targets: list[ast.expr], names: Names) -> None:
    for target in targets:
        match target:
            case ast.Name(id=name):
                _define(name, names)
                names.defined.discard(name)
                names.deleted.add(name)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                _delete(elements, names)


def _import(statement: ast.Import | ast.ImportFrom, names: Names, package: str) -> None:
    for alias in statement.names:
        name = alias.asname or alias.name
        if isinstance(statement, ast.Import):
            name = alias.asname or alias.name.partition(".")[0]
            _define(name, names)
            names.modules[name] = alias.name if alias.asname else name
            continue
        source = _absolute("." * statement.level + (statement.module or ""), package)
        if name == "*":
            names.stars.append(source)
        else:
            names.deleted.discard(name)
            names.imported[name] = (source, alias.name)


def _assign(targets: list[ast.expr], names: Names) -> None:
    for target in targets:
        match target:
            case ast.Name(id=name):
                _define(name, names)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                _assign(elements, names)
            case ast.Subscript(value=ast.Call(func=ast.Name(id="globals" | "vars"))):
                names.is_open = True
            case ast.Subscript(value=ast.Attribute(attr="modules")):  # sys.modules[__name__] = something else
                names.is_open = True


_ORDERS: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
_MAX_HOPS: Final = 20  # a longer chain of aliases is a cycle
_CLOSE: Final = 0.8  # stricter than for other names: an open module may have any name


class Unresolved(NamedTuple):
    """The first part of a dotted path that does not exist.

    Attributes:
        part: That part.
        offset: Its position in the path, in characters.
        module: The module that it should be in; empty for a top-level module.
        is_module: Whether it should be a module itself.
        meant: The existing name that was most likely meant.
        why: Why it does not exist when the module is imported although its source or stub mentions it.
    """

    part: str
    offset: int
    module: str
    is_module: bool
    meant: str | None
    why: str = ""


class Resolver:
    """Finds the modules that Python can import, and their names.

    Args:
        folders: Where to look before the folders of `sys.path`.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = tuple(dict.fromkeys([*folders, *(folder or "." for folder in sys.path)]))
        self._modules: dict[str, Location | None] = {}
        self._texts: dict[str, ModuleText | None] = {}
        self._unresolved: dict[str, Unresolved | None] = {}
        self._origins: dict[str, object] = {}
        self._seen: dict[str, list[str]] = {}
        self._public: dict[str, list[str]] = {}

    def unresolved(self, path: str) -> Unresolved | None:
        """Return the part of a dotted path that does not exist; None where all parts exist, or may exist."""
        if path not in self._unresolved:
            self._unresolved[path] = self._look(path)
        return self._unresolved[path]

    def find(self, module: str) -> Location | None:
        """Return where a module is, or None where it does not exist."""
        if module not in self._modules:
            above, _, name = module.rpartition(".")
            self._modules[module] = self._find_within(above, name) if above else self._find_top(name)
        return self._modules[module]

    def has(self, module: str, name: str) -> bool:
        """Return whether a module has a name, or may have it."""
        live = self._standard(module)
        if live is not None:
            return hasattr(live, name)
        is_there = self._glimpses(module, name, set()) or self._reads(module, name, set())
        return is_there or self.find(f"{module}.{name}") is not None

    def _look(self, path: str) -> Unresolved | None:
        module, name, rest = split(path)
        parts = module.split(".")
        for at, part in enumerate(parts):
            above, here = ".".join(parts[:at]), ".".join(parts[: at + 1])
            if self.find(here) or self._standard(here) is not None:
                continue
            if above and self._may_have_modules(above) and self.has(above, part) and self._is_mentioned(above, part):
                return None  # such as six.moves: its names cannot be known
            return Unresolved(
                part, len(here) - len(part), above, is_module=True, meant=closest(part, self._below(above))
            )
        names = [name, *rest.split(".")[1:]]
        if rest and self.find(f"{module}.{name}"):  # a module with a capital, such as xml.etree.ElementTree
            module, names = f"{module}.{name}", names[1:]
        unresolved = self._look_within(module, names[0])
        return self._look_within_class(module, *names) if unresolved is None and len(names) > 1 else unresolved

    def _may_have_modules(self, module: str) -> bool:
        """Return whether a module may have others inside that are no files, and that Python can import from."""
        text = self._text(module)
        if self._standard(module) is not None:
            return False
        return text is None or text.names.is_open or text.mentions_any_of(("sys.modules", "meta_path"))

    def _look_within_class(self, module: str, outer: str, *names: str) -> Unresolved | None:
        """Return the part that a class does not have; None where its source does not show all of its names."""
        path, holder = f"{module}.{outer}", self._class(module, outer, set())
        for name in names:
            if holder is None or (name not in holder.names and holder.is_open):
                return None
            if name not in holder.names:
                meant = closest(name, sorted(holder.names))
                return Unresolved(name, len(path) + 1, path, is_module=False, meant=meant)
            path, holder = f"{path}.{name}", holder.inner(name)
        return None

    def _class(self, module: str, name: str, seen: set[tuple[str, str]]) -> ClassBody | None:
        """Return a class that a module defines, or imports by name."""
        text = self._text(module)
        if text is None or (module, name) in seen:
            return None
        seen.add((module, name))
        source = text.names.imported.get(name)
        return self._class(*source, seen) if source else text.class_body(name)

    def _look_within(self, module: str, name: str) -> Unresolved | None:
        if self.has(module, name):
            return None
        if module not in self._public:
            names = {known for known in self._names(module, set()) if not known.startswith("_")}
            self._public[module] = sorted(names | self._below(module))
        why = self._why(module, name)
        meant = None if why else closest(name, self._public[module])
        return Unresolved(name, len(module) + 1, module, is_module=False, meant=meant, why=why)

    def _why(self, module: str, name: str) -> str:
        """Return why a name that somebody can see does not exist when a module is imported."""
        text = self._text(module)
        if text and name in text.names.deleted:
            return "the module deletes it"
        if text and name in text.names.imported:
            return self._why(*text.names.imported[name])
        if text and name in text.names_for_checkers:
            return "only type checkers see it"
        return "only the stub has it" if name in self._names_in_stub(module) else ""

    def _names_in_stub(self, module: str) -> set[str]:
        """Return the names in the stub of a module that also has a source, or that is a stub alone."""
        location = self.find(module)
        stub = (location.stub or f"{(location.file or '').removesuffix('.py')}.pyi") if location else ""
        return _all_of(ModuleText(read_module(stub), module, is_stub=True)) if _is_file(stub) else set()

    def origin(self, path: str) -> object:
        """Return the standard-library object that a path stands for, by whatever names; None where it is none."""
        if path not in self._origins:
            self._origins[path] = self._follow(path)
        return self._origins[path]

    def _follow(self, path: str) -> object:
        for _ in range(_MAX_HOPS):
            module, _, name = path.rpartition(".")
            live = self._standard(module)
            if live is not None:
                return getattr(live, name, None)
            text = self._text(module)
            if text is None:
                return None
            following = self._following(module, text, name)
            if following is None:
                return None
            path = following
        return None

    def _following(self, module: str, text: ModuleText, name: str) -> str | None:
        """Return the path that a name of a module is only another name for."""
        if not text.mentions_any_of(SPECIAL) and not text.may_rename(name):  # a large module need not be parsed
            found = text.glimpse(name)
            if isinstance(found, tuple):
                return ".".join(found)
            return None if found else self._through_star(text.stars, name)
        names = text.names
        if name in names.imported:
            return ".".join(names.imported[name])
        first, dot, rest = names.aliases.get(name, "").partition(".")
        if first in names.imported:
            return ".".join(names.imported[first]) + dot + rest
        if first:
            return names.modules.get(first, f"{module}.{first}") + dot + rest
        return None if name in names.defined else self._through_star(names.stars, name)

    def _through_star(self, stars: Iterable[str], name: str) -> str | None:
        return next((f"{star}.{name}" for star in stars if self.has(star, name)), None)

    def _standard(self, module: str) -> object | None:
        """Return a standard-library module if it is loaded, or written in C, so that importing it is harmless."""
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return None
        found = None if module in sys.modules else self.find(module)
        if module in sys.builtin_module_names or (found and found.is_native):
            with suppress(ImportError):
                importlib.import_module(module)
        return sys.modules.get(module)

    def _find_top(self, name: str) -> Location | None:
        source = find_in(name, self.folders) or find_through_hooks(name)
        stubs = next((each for folder in self.folders if _is_folder(each := f"{folder}{os.sep}{name}-stubs")), None)
        if stubs is None or (source and source.file):
            return source._replace(stub=f"{stubs}{os.sep}__init__.pyi") if source and stubs else source
        if source is None or not source.is_native:
            return Location(source.folders if source else (), stub=f"{stubs}{os.sep}__init__.pyi")
        return Location((*source.folders, stubs), f"{stubs}{os.sep}__init__.pyi", is_native=True)

    def _find_within(self, above: str, name: str) -> Location | None:
        package = self.find(above)
        found = find_in(name, package.folders) if package else None
        if package and package.is_native and (found is None or found.stub):  # an extension may have modules inside
            return Location(found.folders, found.stub, is_native=True) if found else self._inside(package)
        return found

    def _inside(self, package: Location) -> Location | None:
        return Location(is_native=True) if package.is_opaque else None

    def _text(self, module: str) -> ModuleText | None:
        if module not in self._texts:
            self._texts[module] = None
            found = self.find(module)
            if found and found.file:
                is_package = os.path.basename(found.file).startswith("__init__.")  # noqa: PTH119 -- a quick look
                package = module if is_package else module.rpartition(".")[0]
                is_stub = found.file.endswith(".pyi")
                self._texts[module] = ModuleText(read_module(found.file), package, is_stub=is_stub)
        return self._texts[module]

    def _glimpses(self, module: str, name: str, seen: set[str]) -> bool:
        """Return whether a quick search finds a name, here or where it is imported from."""
        live = self._standard(module)
        if live is not None:
            return hasattr(live, name)
        text = self._text(module)
        if module in seen or text is None or text.may_delete(name):
            return False
        seen.add(module)
        match text.glimpse(name):
            case (str() as source, str() as original):
                return self._glimpses(source, original, seen) or self.find(f"{source}.{original}") is not None
            case True:
                return True
        return not name.startswith("_") and any(self._glimpses(star, name, seen) for star in text.stars)

    def _reads(self, module: str, name: str, seen: set[tuple[str, str]]) -> bool:
        """Return whether a module has a name, or may have it, after parsing all of its text."""
        text, live = self._text(module), self._standard(module)
        if live is not None:
            return hasattr(live, name)
        if text is None:
            found = self.find(module)
            return found is not None and found.is_opaque
        if (module, name) in seen:
            return False
        seen.add((module, name))
        names = text.names
        if name in names.deleted:
            return False
        if name in names.imported:
            source, original = names.imported[name]
            return self._reads(source, original, seen) or self.find(source) is None or self._is_module(source, original)
        stars = () if name.startswith("_") else names.stars
        is_here = name in names.defined or any(self._reads(star, name, seen) for star in stars)
        return is_here or (names.is_open and self._may_answer(module, name))

    def _is_mentioned(self, module: str, name: str) -> bool:
        """Return whether the text of a module contains a name; a module without text might."""
        text = self._text(module)
        return text is None or text.mentions(name) or name in self._all_names(module)

    def _all_names(self, module: str) -> list[str]:
        if module not in self._seen:
            self._seen[module] = sorted(self._names(module, set()))
        return self._seen[module]

    def _may_answer(self, module: str, name: str) -> bool:
        """Return whether a module with `__getattr__` may provide a name, which is not close to one that it defines."""
        described = self._names_in_stub(module)
        if described:  # a stub next to the source lists what `__getattr__` provides
            return name in described
        text = self._text(module)
        is_mentioned = text is not None and text.mentions(name)
        return is_mentioned or closest(name, self._all_names(module), _CLOSE) is None

    def _is_module(self, package: str, name: str) -> bool:
        return self.find(f"{package}.{name}") is not None

    def _names(self, module: str, seen: set[str]) -> set[str]:
        live = self._standard(module)
        if live is not None:
            return set(dir(live))
        text = self._text(module)
        if text is None or module in seen:
            return set()
        seen.add(module)
        names = text.names
        described = self._names_in_stub(module) if names.is_open else set[str]()
        return {*names.defined, *names.imported, *described}.union(*(self._names(star, seen) for star in names.stars))

    def _below(self, package: str) -> set[str]:
        """Return the modules in a package, or at the top level."""
        found = self.find(package) if package else None
        folders = found.folders if found else () if package else self.folders
        files = {name for folder in folders for name in listing(folder)}
        names = {name.partition(".")[0] for name in files if name.endswith(SOURCES) or "." not in name}
        standard = set() if package else set(sys.stdlib_module_names)
        return {name for name in names | standard if name.isidentifier() and not name.startswith("_")}


_GROUP: Final = "[d9d.catalogues]"  # of entry points: the packages of the catalogues of an installed project
_OWN: Final = "d9d.loop.event.catalogue"


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another catalogue of the same project.

    Attributes:
        path: Its path, as the user wrote it.
        package: The dotted name of its package.
        modules: The names of its modules.
        contexts: The full dotted paths of its contexts.
    """

    path: Path
    package: str
    modules: tuple[str, ...]
    contexts: tuple[str, ...]

    @property
    def module_paths(self) -> frozenset[str]:
        """The full dotted paths of its modules."""
        return frozenset(f"{self.package}.{module}" for module in self.modules)


class Environment:
    """The environment of a catalogue: its project's other catalogues, installed ones, and all importable modules.

    Args:
        root: The project's root.
        package: The catalogue's own package.
        siblings: The other catalogues of the project.
        earlier: Those of them that the project names before this one.
    """

    def __init__(
        self, root: Path, package: str, siblings: Iterable[Sibling] = (), earlier: Sequence[Sibling] = ()
    ) -> None:
        self.siblings = tuple(siblings)
        self.earlier = tuple(earlier)
        self.resolver = Resolver([str(root), str(root / "src")])
        self._package = package

    @cached_property
    def owners(self) -> dict[str, str]:
        """The package that owns each namespace, for all catalogues but this one."""
        own = {self._package, *(sibling.package for sibling in self.siblings)}
        found: dict[str, str] = {}
        for package in (_OWN, *self._packages_of_entry_points()):
            if package not in own:
                found |= dict.fromkeys(self._index(package).get("modules", ()), package)
        for sibling in reversed(self.earlier):
            found |= dict.fromkeys(sibling.modules, sibling.package)
        return found

    def contexts_of(self, package: str) -> Iterable[str] | None:
        """Return the full paths of the contexts of an installed catalogue; None where the package has no catalogue."""
        contexts = self._index(package).get("contexts")
        return contexts if isinstance(contexts, dict) else None

    def _index(self, package: str) -> dict[str, dict[str, object]]:
        """Return the index next to the modules of a package; an empty one where there is no valid index."""
        found = self.resolver.find(package)
        for folder in found.folders if found else ():
            with suppress(OSError, ValueError):
                index = json.loads((Path(folder) / "index.json").read_bytes())
                if isinstance(index, dict) and index.get("package") == package:
                    return {key: value for key, value in index.items() if isinstance(value, dict)}
        return {}

    def _packages_of_entry_points(self) -> Iterator[str]:
        """Yield the packages that installed projects register; importlib.metadata would be much slower."""
        for folder in self.resolver.folders:
            with suppress(OSError):
                for name in sorted(os.listdir(folder)):  # noqa: PTH208 -- only names are needed
                    if name.endswith(".dist-info"):
                        yield from _entry_points(Path(folder, name, "entry_points.txt"))


def _entry_points(path: Path) -> Iterator[str]:
    try:
        _, _, after = path.read_text(encoding="utf-8").partition(_GROUP)
    except (OSError, ValueError):
        return
    for line in after.partition("\n[")[0].splitlines():
        _, equals, package = line.partition("=")
        if equals:
            yield package.strip()
