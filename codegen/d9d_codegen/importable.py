"""What can be imported beside a catalogue, found in sources and stubs: nothing that they hold is executed."""

import importlib
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from d9d_codegen.imports import split
from d9d_codegen.module_names import ClassBody, ModuleText
from d9d_codegen.module_search import SOURCES, Found, find_in, find_through_hooks, listing, read
from d9d_codegen.spelling import closest

_CLOSE: Final = 0.8  # nearer than for other names: a module that is open may have any name


class Missing(NamedTuple):
    """The first part of a dotted path that cannot be imported.

    Attributes:
        part: That part.
        offset: Where it stands in the path, in characters.
        module: The module that it should be in; empty where it is a module at the top.
        is_module: Whether it should be a module itself.
        meant: What was most likely meant.
    """

    part: str
    offset: int
    module: str
    is_module: bool
    meant: str | None


class Importable:
    """The modules that can be imported, and their names.

    Args:
        folders: Where to look, before all folders that this Python imports from.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = tuple(dict.fromkeys([*folders, *(folder or "." for folder in sys.path)]))
        self._modules: dict[str, Found | None] = {}
        self._texts: dict[str, ModuleText | None] = {}
        self._missing: dict[str, Missing | None] = {}
        self._seen: dict[str, list[str]] = {}
        self._public: dict[str, list[str]] = {}

    def missing(self, path: str) -> Missing | None:
        """Return what of a dotted path cannot be imported; nothing where all can, or where that cannot be known."""
        if path not in self._missing:
            self._missing[path] = self._look(path)
        return self._missing[path]

    def find(self, module: str) -> Found | None:
        """Return where a module lies, or nothing where there is none."""
        if module not in self._modules:
            above, _, name = module.rpartition(".")
            self._modules[module] = self._find_within(above, name) if above else self._find_top(name)
        return self._modules[module]

    def has(self, module: str, name: str) -> bool:
        """Return whether a module has a name, or may have it for all that can be seen."""
        live = self._standard(module)
        if live is not None:
            return hasattr(live, name)
        is_there = self._glimpses(module, name, set()) or self._reads(module, name, set())
        return is_there or self.find(f"{module}.{name}") is not None

    def _look(self, path: str) -> Missing | None:
        module, name, rest = split(path)
        parts = module.split(".")
        for at, part in enumerate(parts):
            above, here = ".".join(parts[:at]), ".".join(parts[: at + 1])
            if self.find(here) or self._standard(here) is not None:
                continue
            if above and self.has(above, part) and self._is_told(above, part):
                return None  # something that only looks like a module: what it has cannot be known
            return Missing(part, len(here) - len(part), above, is_module=True, meant=closest(part, self._below(above)))
        names = [name, *rest.split(".")[1:]]
        if rest and self.find(f"{module}.{name}"):  # a module with a capital, such as xml.etree.ElementTree
            module, names = f"{module}.{name}", names[1:]
        missing = self._look_within(module, names[0])
        return self._look_within_class(module, *names) if missing is None and len(names) > 1 else missing

    def _look_within_class(self, module: str, outer: str, *names: str) -> Missing | None:
        """Return what a class does not have; nothing where its source does not show all that it has."""
        path, holder = f"{module}.{outer}", self._class(module, outer, set())
        for name in names:
            if holder is None or (name not in holder.names and holder.is_open):
                return None
            if name not in holder.names:
                meant = closest(name, sorted(holder.names))
                return Missing(name, len(path) + 1, path, is_module=False, meant=meant)
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

    def _look_within(self, module: str, name: str) -> Missing | None:
        if self.has(module, name):
            return None
        if module not in self._public:
            names = {known for known in self._names(module, set()) if not known.startswith("_")}
            self._public[module] = sorted(names | self._below(module))
        meant = closest(name, self._public[module])
        return Missing(name, len(module) + 1, module, is_module=False, meant=meant)

    def _standard(self, module: str) -> object | None:
        """Return a module of Python itself, if it is loaded already or is written in C: loading that does nothing."""
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return None
        found = None if module in sys.modules else self.find(module)
        if module in sys.builtin_module_names or (found and found.is_opaque):
            with suppress(ImportError):
                importlib.import_module(module)
        return sys.modules.get(module)

    def _find_top(self, name: str) -> Found | None:
        found = find_in(name, [f"{folder}{os.sep}{name}-stubs" for folder in self.folders], is_stub=True)
        source = find_in(name, self.folders)
        if found and source:
            return Found((*found.folders, *source.folders), found.file)
        return found or source or find_through_hooks(name)

    def _find_within(self, above: str, name: str) -> Found | None:
        package = self.find(above)
        found = find_in(name, package.folders) if package else None
        return found or (Found(is_opaque=True) if package and package.is_opaque else None)

    def _text(self, module: str) -> ModuleText | None:
        if module not in self._texts:
            self._texts[module] = None
            found = self.find(module)
            if found and found.file:
                is_package = os.path.basename(found.file).startswith("__init__.")  # noqa: PTH119 -- a quick look
                package = module if is_package else module.rpartition(".")[0]
                self._texts[module] = ModuleText(read(found.file), package)
        return self._texts[module]

    def _glimpses(self, module: str, name: str, seen: set[str]) -> bool:
        """Return whether a quick look finds a name, here or where it is imported from."""
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
        """Return whether a module has a name, or may have it, after all of its text is read."""
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

    def _is_told(self, module: str, name: str) -> bool:
        """Return whether a module as much as mentions a name; a module without a text might."""
        text = self._text(module)
        return text is None or text.mentions(name) or name in self._all_names(module)

    def _all_names(self, module: str) -> list[str]:
        if module not in self._seen:
            self._seen[module] = sorted(self._names(module, set()))
        return self._seen[module]

    def _may_answer(self, module: str, name: str) -> bool:
        """Return whether a module that makes names up as they are asked for may make this one, and not a close one."""
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
        """Return the modules in a package, or at the top."""
        found = self.find(package) if package else None
        folders = found.folders if found else () if package else self.folders
        files = {name for folder in folders for name in listing(folder)}
        names = {name.partition(".")[0] for name in files if name.endswith(SOURCES) or "." not in name}
        standard = set() if package else set(sys.stdlib_module_names)
        return {name for name in names | standard if name.isidentifier() and not name.startswith("_")}
