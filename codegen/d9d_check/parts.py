"""The parts of a program that share no module: what is found in one cannot depend on the text of another."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from d9d_check.source import Module, absolute, parents_of


def parts_of(modules: Sequence[Module], outlines: Mapping[str, Mapping[str, Any]]) -> list[list[Module]]:
    """Return the modules in groups, such that no module imports one of another group.

    Args:
        modules: All modules of the program.
        outlines: What each imports, by its key.
    """
    by_key = {module.key: module for module in modules}
    below: dict[str, list[str]] = {}
    for key in by_key:
        for package in parents_of(key):
            below.setdefault(package, []).append(key)
    leader = {key: key for key in by_key}

    def find(key: str) -> str:
        while leader[key] != key:
            leader[key] = key = leader[leader[key]]
        return key

    for module in modules:
        for name, is_bound in _imported(module, outlines[module.key]["imports"]):
            # A package that has a name here leads to all its modules, if they are imported anywhere.
            for key in (name, *(below.get(name, ()) if is_bound else ())):
                if key in by_key and not outlines[key]["is_empty"]:
                    leader[find(key)] = find(module.key)
    parts: dict[str, list[Module]] = {}
    for module in modules:
        parts.setdefault(find(module.key), []).append(module)
    return list(parts.values())


def _imported(module: Module, imports: Sequence[Any]) -> Iterator[tuple[str, bool]]:
    """Yield the full name of everything that a module imports, and whether it has a name there."""
    for level, name, names in imports:
        full = absolute(module, level, name)
        if full.partition(".")[0] == "d9d":
            continue  # d9d itself is known, and not followed
        if names:
            yield full, False
            yield from ((f"{full}.{each}", True) for each in names)
        else:
            yield from ((each, True) for each in (full, *parents_of(full)))
