"""Which imports a module needs, how names are then spelled, and in which order the imports stand."""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from d9d_codegen.annotation import BUILTINS

_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement.

    Attributes:
        module: The module that is imported, or imported from.
        names: What is imported from it; nothing where the module itself is imported.
    """

    module: str
    names: tuple[str, ...] = ()


def split(path: str) -> tuple[str, str, str]:
    """Split a dotted path at its first class, by its capital letter.

    Returns:
        The module, the name to import from it, and what follows that name, dot included.
    """
    first, *others = path.split(".")
    position = next((index for index, part in enumerate(others) if part[0].isupper()), len(others) - 1)
    module = ".".join([first, *others[:position]])
    rest = others[position + 1 :]
    return module, others[position], "".join(f".{part}" for part in rest)


def natural(name: str) -> tuple[object, ...]:
    """Return a key that sorts names as people do: numbers by their value."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in _DIGITS.split(name) if part)


def role(name: str) -> int:
    """Return a key that sorts names as isort does: constants, then classes, then all else."""
    if len(name) > 1 and name.isupper():
        return 0
    return 1 if name[0].isupper() else 2


def _without_case(name: str) -> tuple[object, ...]:
    return natural(name.lower()), natural(name)


class Imports:
    """The imports of one module.

    A name is imported from its module. Where two would be called the same, or one like something else in the module,
    it is spelled out in full instead.

    Args:
        modules: Modules of a single name that are imported as they are.
        paths: The full dotted paths that the module mentions.
        taken: The names that the module defines.
    """

    def __init__(self, modules: Iterable[str], paths: Iterable[str], taken: Iterable[str]) -> None:
        self._modules = frozenset(modules)
        self._paths = sorted(set(paths))
        targets = {split(path)[:2] for path in self._paths}
        times = Counter(name for _, name in targets)
        reserved = {*taken, *BUILTINS, *self._modules}
        self._spelled_out = {target for target in targets if times[target[1]] > 1 or target[1] in reserved}
        while hidden := {target for target in targets - self._spelled_out if target[1] in self._roots()}:
            self._spelled_out |= hidden

    def _roots(self) -> set[str]:
        return {module.partition(".")[0] for module, _ in self._spelled_out}

    def spell(self, path: str) -> str:
        """Return how a dotted path is written in the module."""
        module, name, rest = split(path)
        return path if (module, name) in self._spelled_out else name + rest

    def is_imported_by_name(self, path: str) -> bool:
        """Return whether the last name of a dotted path is a name of the module."""
        return self.spell(path) == path.rpartition(".")[2]

    def sections(self, package: str) -> list[list[Import]]:
        """Return the statements: the standard library's, then others', then those of the package's own project.

        Args:
            package: The package that the module belongs to.
        """
        own = package.partition(".")[0]
        names: dict[str, set[str]] = {}
        for module, name, _ in map(split, self._paths):
            if (module, name) not in self._spelled_out:
                names.setdefault(module, set()).add(name)
        plain = {module for module, _ in self._spelled_out} | self._modules
        statements = [Import(module) for module in sorted(plain, key=_without_case)]
        statements += [
            Import(module, tuple(sorted(names[module], key=lambda name: (role(name), _without_case(name)))))
            for module in sorted(names, key=_without_case)
        ]
        sections = [[line for line in statements if _section(line.module, own) == number] for number in range(3)]
        return [section for section in sections if section]


def _section(module: str, own: str) -> int:
    root = module.partition(".")[0]
    if root == own:
        return 2
    return 0 if root in sys.stdlib_module_names else 1
