"""Which functions are worth following: those that lead to a bus, or to something that rules watch."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from d9d_check.extent import Extent
from d9d_check.source import Module, absolute
from d9d_check.values import Definition


class Relevance:
    """Which functions are worth following, by the names that they mention.

    Args:
        modules: The modules of the program, by key.
        watched: What a function mentions that rules want to see.
        extent: How much of the program is followed.
    """

    def __init__(self, modules: Mapping[str, Module], watched: Iterable[str], extent: Extent) -> None:
        self._modules = modules
        self._alone = extent.leading_alone
        self._ways = "calls" if extent.follows_calls_only else "mentions"
        self._watched = {*extent.leading, *watched}
        imported = {key: set(self._imported_names(key)) for key in self._modules}
        self._with_bus = _reached(imported, extent.packages) if extent.packages else set(modules)
        self._knowing = _reached(imported, {*extent.packages, "torch"}) if extent.packages else set(modules)
        self._leading: set[str] = set(extent.leading)
        self._names: set[str] = set()
        self.add(())

    def add(self, names: Iterable[str]) -> None:
        """Add names that lead to a bus, such as those of classes with handlers."""
        self._leading = self._spread({*self._leading, *names}, self._with_bus)
        self._names = self._spread({*self._watched, *self._leading}, self._knowing)

    def _spread(self, relevant: set[str], modules: set[str]) -> set[str]:
        """Return names, and those of the functions of some modules that lead to one of them."""
        functions = [
            function for key in modules for function in (self._modules[key].summary or {}).get("functions", ())
        ]
        while True:
            found = {
                _called_as(function)
                for function in functions
                if not relevant.isdisjoint(function[self._ways]) and _called_as(function) not in relevant
            }
            if not found:
                return relevant
            relevant |= found

    def leads(self, definition: Definition) -> bool:
        """Return whether a function leads to a bus."""
        facts = definition.facts
        is_leading = not self._leading.isdisjoint(facts[self._ways]) or not self._alone.isdisjoint(facts["mentions"])
        return definition.module in self._with_bus and is_leading

    def has(self, definition: Definition) -> bool:
        """Return whether a function leads to something that rules watch."""
        return definition.module in self._knowing and not self._names.isdisjoint(definition.facts[self._ways])

    def _imported_names(self, key: str) -> Iterator[str]:
        module = self._modules[key]
        for level, name, names in (module.summary or {}).get("imports", ()):
            full = absolute(module, level, name)
            yield full
            yield from (f"{full}.{each}" for each in names)


def _reached(imported: Mapping[str, set[str]], packages: Collection[str]) -> set[str]:
    """Return the modules that import one of some packages, or a module of the program that does."""
    known = {
        key
        for key, names in imported.items()
        if any(name.partition(".")[0] in packages for name in names) or key.partition(".")[0] in packages
    }
    while True:
        found = {key for key, names in imported.items() if key not in known and not names.isdisjoint(known)}
        if not found:
            return known
        known |= found


def _called_as(function: dict[str, Any]) -> str:
    """Return the name by which a function is called: that of its class for a special method."""
    name = str(function["name"])
    if name.startswith("__") and name.endswith("__"):
        return str(function["path"]).rpartition(".")[0].rpartition(".")[2] or name
    return name
