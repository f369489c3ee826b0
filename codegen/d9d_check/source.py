"""The files of a program, and their summaries: made from the text, or kept from an earlier check."""

import ast
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_check.lower import lower
from d9d_check.store import Store

_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
_DEPTH: Final = 40_000


@dataclasses.dataclass
class Module:
    """One file of the program.

    Attributes:
        key: What identifies it: its dotted name, or its path where another file has that name.
        name: Its dotted name, as other modules import it.
        path: The file.
        is_package: Whether it is the `__init__.py` of a package.
        is_reported: Whether it is one of the files to check, and not only a part of the same program.
        summary: Its summary; `None` if it cannot be parsed.
        problem: Why it cannot be parsed.
        cells: For a notebook, the number of each cell and the line at which it begins.
    """

    key: str
    name: str
    path: Path
    is_package: bool
    is_reported: bool
    text: str
    cells: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] | None = None
    problem: str = ""
    problem_line: int = 1

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the text."""
        return hashlib.sha256(self.text.encode(errors="surrogatepass")).hexdigest()


def python_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the Python files and notebooks among paths and below them; environments and hidden folders are skipped."""
    for path in paths:
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                folders[:] = sorted(name for name in folders if not _is_skipped(folder, name))
                yield from (Path(folder, name) for name in sorted(files) if name.endswith((".py", ".ipynb")))
        else:
            yield path


def _is_skipped(folder: str, name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED or os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))  # noqa: PTH110, PTH118 -- called for every folder, and `Path` is slow


def read_modules(checked: Sequence[Path], others: Sequence[Path]) -> list[Module]:
    """Read the files of a program.

    Args:
        checked: The files to check.
        others: Further files of the same program.
    """
    modules: dict[str, Module] = {}
    files = {path.resolve(): (path, False) for path in others} | {path.resolve(): (path, True) for path in checked}
    for resolved, (path, is_reported) in files.items():
        name, is_package = _name_of(resolved)
        key = name if name not in modules else str(path)
        module = Module(key, name, path, is_package, is_reported, "")
        modules[key] = module
        _read(module)
    return list(modules.values())


def _name_of(path: Path) -> tuple[str, bool]:
    """Return the dotted name of the module in a file, and whether the file is a package's own."""
    is_package = path.stem == "__init__"
    parts = [] if is_package else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists():
        parts.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(parts)) or path.parent.name, is_package


def _read(module: Module) -> None:
    try:
        data = module.path.read_bytes()
        if module.path.suffix == ".ipynb":
            module.text, module.cells = _code_of(json.loads(data))
        else:
            module.text = data.decode("utf-8-sig")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        module.problem = f"cannot be read: {error}"


def _code_of(notebook: Any) -> tuple[str, list[tuple[int, int]]]:
    """Return the code of a notebook as one text, and where each cell begins; magic lines become empty."""
    lines: list[str] = []
    cells: list[tuple[int, int]] = []
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        cells.append((number, len(lines) + 1))
        if text.lstrip().startswith("%%"):
            lines += [""] * len(text.splitlines())
        else:
            lines += ["pass" if line.lstrip()[:1] in {"%", "!", "?"} else line for line in text.splitlines()]
    return "\n".join(lines) + "\n", cells


def summarise(module: Module, store: Store) -> None:
    """Set the summary of a module, or what is wrong with its text."""
    module.summary = store.summary(module.digest)
    if module.summary is None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _DEPTH))
        try:
            module.summary = lower(ast.parse(module.text))
        except SyntaxError as error:
            module.problem, module.problem_line = f"cannot be parsed: {error.msg}", error.lineno or 1
        except (ValueError, RecursionError, MemoryError) as error:
            module.problem = f"cannot be parsed: {type(error).__name__}: {error}"
        finally:
            sys.setrecursionlimit(limit)
        if module.summary is not None:
            store.keep_summary(module.digest, module.summary, outline_of(module.summary))


def outline_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what other modules need to know of a module: what it imports, and whether it configures a loop."""
    is_empty = all(node[0] == "expression" and node[1][0] == "constant" for node in summary["body"])
    return {"imports": summary["imports"], "configures": summary["configures"], "is_empty": is_empty}


def absolute(module: Module, level: int, name: str) -> str:
    """Return the full name of a module that is imported relatively."""
    if not level:
        return name
    parts = module.name.split(".")
    parts = parts[: len(parts) - level + (1 if module.is_package else 0)]
    return ".".join([*parts, *([name] if name else [])])


def parents_of(name: str) -> list[str]:
    """Return the packages around a module, by their dotted names."""
    parts = name.split(".")
    return [".".join(parts[:number]) for number in range(1, len(parts))]


def is_test_module(key: str) -> bool:
    """Return whether a module holds tests, by its name."""
    name = key.rpartition(".")[2].rpartition("/")[2]
    return name.startswith("test_") or name.endswith("_test") or name == "conftest"
