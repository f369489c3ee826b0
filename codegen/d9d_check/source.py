"""The files of a program, and their summaries: made from the text, or kept from an earlier check."""

import ast
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_check.files import read_file
from d9d_check.lower import lower
from d9d_check.store import Store

_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
_DEPTH: Final = 40_000
_MAX_CHARACTERS: Final = 4_000_000
"""What a larger file holds is data, and would take minutes."""
_OF_FUNCTIONS: Final = frozenset(
    {
        *("name", "key", "path", "parameters", "decorators", "body", "returns", "mentions", "calls", "assigns"),
        *("async", "generator", "unread", "position"),
    }
)
_PYTHON_MAGICS: Final = frozenset({"time", "timeit", "capture", "prun", "debug", "memit", "mprun", "lprun"})
"""Cell magics whose cell is Python."""
_MAGIC: Final = re.compile(r"(?P<indent>\s*)(?P<target>[\w.,\[\]'\" ]+=\s*)?(%|!|\?)|(?P<help>\s*)[\w.]+\?+\s*$")


MANGLED: Final = re.compile(r"(?<!\w)_([^\W_]\w*?)(__\w+)")
"""The name that Python gives to a private attribute: that of its class, and its own."""


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
        is_skipped: Whether it is left out on purpose, because it is no source that somebody wrote.
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
    is_skipped: bool = False

    def may_mention(self, name: str) -> bool:
        """Return whether a name is in the text; a private one is there without the name of its class."""
        return MANGLED.sub(r"\2", name) in self.text

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


def would_be_found(path: str, root: str) -> bool:
    """Return whether a file is among the Python files of a file or folder; both paths are absolute."""
    if path == root:
        return True
    if not path.endswith((".py", ".ipynb")) or not Path(path).is_relative_to(root):
        return False
    folder = Path(root)
    for name in Path(path).parent.relative_to(root).parts:
        if _is_skipped(str(folder), name):
            return False
        folder /= name
    return True


def _is_skipped(folder: str, name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED or os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))  # noqa: PTH110, PTH118 -- called for every folder, and `Path` is slow


def read_modules(checked: Sequence[Path], others: Sequence[Path]) -> list[Module]:
    """Read the files of a program.

    Args:
        checked: The files to check.
        others: Further files of the same program.
    """
    modules: dict[str, Module] = {}
    files = {_resolved(path): (path, False) for path in others} | {_resolved(path): (path, True) for path in checked}
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


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself, which cannot be read either
        return path.absolute()


def _read(module: Module) -> None:
    try:
        data = read_file(module.path)
        if module.path.suffix == ".ipynb":
            module.text, module.cells = _code_of(json.loads(data))
        else:
            module.text = _decoded(data)
        module.text.encode()
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, LookupError) as error:
        # Notebooks of other formats lack what is looked up here.
        reason = (
            error if isinstance(error, OSError | ValueError | RecursionError) else "it is not a notebook of format 4"
        )
        module.text, module.cells, module.problem = "", [], f"cannot be read: {reason}"
    if len(module.text) > _MAX_CHARACTERS:
        module.is_skipped = True
        module.problem = f"has more than {_MAX_CHARACTERS:,} characters"


def _decoded(data: bytes) -> str:
    """Return the text of a source: UTF-8, unless its first lines say otherwise."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        import tokenize  # noqa: PLC0415 -- few files are not UTF-8

        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        except SyntaxError:
            raise error from None
        return data.decode(encoding)


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
        lines += _without_magic(text.splitlines())
    return "\n".join(lines) + "\n", cells


def _without_magic(lines: list[str]) -> list[str]:
    """Return the lines of a cell as Python: commands of the notebook become `pass`, those of other languages empty."""
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%") and first[2:].partition(" ")[0] not in _PYTHON_MAGICS:
        return [""] * len(lines)
    found: list[str] = []
    is_continued = False
    for line in lines:
        match = None if is_continued else _MAGIC.match(line)
        if is_continued:
            found.append("")
        elif match is None:
            found.append(line)
        elif match["target"]:
            found.append(f"{match['indent']}{match['target']}None")
        else:
            found.append(f"{match['indent'] or match['help'] or ''}pass")
        is_continued = (is_continued or match is not None) and line.endswith("\\")
    return found


def summarise(module: Module, store: Store) -> None:
    """Set the summary of a module, or what is wrong with its text."""
    kept = store.summary(module.digest)
    module.summary = kept if _is_summary(kept) else None
    if module.summary is None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _DEPTH))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the text of the program, which is not what is checked
                module.summary = lower(ast.parse(module.text))
        except SyntaxError as error:
            module.problem, module.problem_line = f"cannot be parsed: {error.msg}", error.lineno or 1
        except (RecursionError, MemoryError):
            module.problem = "cannot be parsed: it is nested too deeply"
        except ValueError as error:
            module.problem = f"cannot be parsed: {error}"
        finally:
            sys.setrecursionlimit(limit)
        if module.summary is not None:
            store.keep_summary(module.digest, module.summary, outline_of(module.summary))


def outline_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what other modules need to know of a module: what it imports, and whether it configures a loop."""
    is_empty = all(node[0] == "expression" and node[1][0] == "constant" for node in summary["body"])
    return {"imports": summary["imports"], "configures": summary["configures"], "is_empty": is_empty}


def uses_d9d(outline: Mapping[str, Any]) -> bool:
    """Return whether a module imports d9d or anything in it."""
    return any(not level and name.partition(".")[0] == "d9d" for level, name, _ in outline["imports"])


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


def _is_summary(summary: Any) -> bool:
    """Return whether something has the form of a summary: the cache may hold anything."""
    if not isinstance(summary, dict):
        return False
    tables = [summary.get(key) for key in ("body", "imports", "functions", "classes")]
    return all(isinstance(table, list) for table in tables) and all(
        isinstance(function, dict) and function.keys() >= _OF_FUNCTIONS for function in summary["functions"]
    )
