"""Which modules and names a catalogue can mention, found in sources and stubs without executing their code."""

import ast
import importlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, NamedTuple

from d9d_codegen.diagnostic import closest
from d9d_codegen.expression import split

SOURCES: Final = (".pyi", ".py")
_INITS: Final = tuple(f"{os.sep}__init__{suffix}" for suffix in SOURCES)


class Location(NamedTuple):
    """Where a module is.

    Attributes:
        folders: Where its submodules are, if it is a package.
        file: Its source or stub, if it has one.
        is_opaque: Whether its names cannot be read, as in an extension module.
    """

    folders: tuple[str, ...] = ()
    file: str | None = None
    is_opaque: bool = False


def find_in(name: str, folders: Iterable[str], *, is_stub: bool = False) -> Location | None:
    """Look for a module in folders as Python does, except that stubs come first."""
    spaces: list[str] = []
    for folder in folders:
        base = folder if is_stub else f"{folder}{os.sep}{name}"
        if os.path.isdir(base):  # noqa: PTH112 -- strings are several times as fast as Path
            for init in _INITS:
                if os.path.isfile(base + init):  # noqa: PTH113 -- the same
                    return Location((base,), base + init)
            if any(os.path.isfile(f"{base}{os.sep}__init__{suffix}") for suffix in EXTENSION_SUFFIXES):  # noqa: PTH113
                return Location((base,), is_opaque=True)
            spaces.append(base)
        for suffix in () if is_stub else SOURCES:
            if os.path.isfile(base + suffix):  # noqa: PTH113 -- the same
                return Location((), base + suffix)
        if any(os.path.isfile(base + suffix) for suffix in (*EXTENSION_SUFFIXES, ".pyc")):  # noqa: PTH113 -- the same
            return Location(is_opaque=True)
    return Location(tuple(spaces)) if spaces else None


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
    is_source = spec.origin is not None and spec.origin.endswith(SOURCES) and os.path.isfile(spec.origin)  # noqa: PTH113
    return Location(folders, spec.origin) if is_source else Location(folders, is_opaque=True)


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
_DEFINITION: Final = r"^(?:class|def|async[ \t]+def)[ \t]+{name}\b|^{name}[ \t]*(?::|=(?!=))"
_PATCH: Final = r"^{name}\.[\w.]+[ \t]*=|\bsetattr\({name}\b"  # attributes that are set outside the class body


@dataclass
class Names:
    """The names of a module.

    Attributes:
        defined: What its source defines, or imports as a module.
        imported: What it imports from elsewhere: by name, the module and the name there.
        stars: The modules from which it imports all names.
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
        """Look for a name with regular expressions, since parsing a large module takes long.

        Returns:
            Whether the text defines the name at its top level, or the module and name that it is imported from.
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
        """The modules from which all names seem to be imported."""
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
        """All names of the module; open where the text does not parse."""
        return Names(is_open=True) if self._tree is None else _names_in(self._tree.body, self._package)

    def class_body(self, name: str) -> "ClassBody | None":
        """Return the class that the text defines under a name; None where it defines none, or several."""
        found = _class_in(self._tree.body, name) if self._tree else None
        is_patched = re.search(_PATCH.format(name=re.escape(name)), self._text, re.MULTILINE)
        return replace(found, is_open=True) if found and is_patched else found

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


def _names_in(body: list[ast.stmt], package: str) -> Names:
    names = Names()
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
    """Yield the statements that run when a module is imported, from every branch."""
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


_CLOSE: Final = 0.8  # stricter than for other names: an open module may have any name


class Unresolved(NamedTuple):
    """The first part of a dotted path that does not exist.

    Attributes:
        part: That part.
        offset: Its position in the path, in characters.
        module: The module that it should be in; empty for a top-level module.
        is_module: Whether it should be a module itself.
        meant: The existing name that was most likely meant.
    """

    part: str
    offset: int
    module: str
    is_module: bool
    meant: str | None


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
            if above and self.has(above, part) and self._is_mentioned(above, part):
                return None  # an attribute that looks like a module: its names cannot be known
            return Unresolved(
                part, len(here) - len(part), above, is_module=True, meant=closest(part, self._below(above))
            )
        names = [name, *rest.split(".")[1:]]
        if rest and self.find(f"{module}.{name}"):  # a module with a capital, such as xml.etree.ElementTree
            module, names = f"{module}.{name}", names[1:]
        unresolved = self._look_within(module, names[0])
        return self._look_within_class(module, *names) if unresolved is None and len(names) > 1 else unresolved

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
        meant = closest(name, self._public[module])
        return Unresolved(name, len(module) + 1, module, is_module=False, meant=meant)

    def _standard(self, module: str) -> object | None:
        """Return a standard-library module if it is loaded, or written in C, so that importing it is harmless."""
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return None
        found = None if module in sys.modules else self.find(module)
        if module in sys.builtin_module_names or (found and found.is_opaque):
            with suppress(ImportError):
                importlib.import_module(module)
        return sys.modules.get(module)

    def _find_top(self, name: str) -> Location | None:
        found = find_in(name, [f"{folder}{os.sep}{name}-stubs" for folder in self.folders], is_stub=True)
        source = find_in(name, self.folders)
        if found and source:
            return Location((*found.folders, *source.folders), found.file)
        return found or source or find_through_hooks(name)

    def _find_within(self, above: str, name: str) -> Location | None:
        package = self.find(above)
        found = find_in(name, package.folders) if package else None
        return found or (Location(is_opaque=True) if package and package.is_opaque else None)

    def _text(self, module: str) -> ModuleText | None:
        if module not in self._texts:
            self._texts[module] = None
            found = self.find(module)
            if found and found.file:
                is_package = os.path.basename(found.file).startswith("__init__.")  # noqa: PTH119 -- a quick look
                package = module if is_package else module.rpartition(".")[0]
                self._texts[module] = ModuleText(read_module(found.file), package)
        return self._texts[module]

    def _glimpses(self, module: str, name: str, seen: set[str]) -> bool:
        """Return whether a quick search finds a name, here or where it is imported from."""
        live = self._standard(module)
        if live is not None:
            return hasattr(live, name)
        text = self._text(module)
        if module in seen or text is None:
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
        return {*names.defined, *names.imported}.union(*(self._names(star, seen) for star in names.stars))

    def _below(self, package: str) -> set[str]:
        """Return the modules in a package, or at the top level."""
        found = self.find(package) if package else None
        folders = found.folders if found else () if package else self.folders
        files = {name for folder in folders for name in listing(folder)}
        names = {name.partition(".")[0] for name in files if name.endswith(SOURCES) or "." not in name}
        standard = set() if package else set(sys.stdlib_module_names)
        return {name for name in names | standard if name.isidentifier() and not name.startswith("_")}


_GROUP: Final = (
    "[d9d.catalogues]"  # the entry points by which an installed project names the packages of its catalogues
)
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
