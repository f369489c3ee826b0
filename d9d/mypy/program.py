"""What `d9d check` finds in the whole program, for mypy to report in the module under analysis."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mypy.defaults import USER_CONFIG_FILES
from mypy.options import Options

from d9d.mypy.diagnostics import CODES
from d9d_check.catalogues import read_catalogues
from d9d_check.check import check_program, named_sources
from d9d_check.report import Diagnostic
from d9d_check.source import would_be_found


class ProgramFindings:
    """What is found in each file of the program. The program is read when the plugin is made, and again after an edit.

    Args:
        options: The settings of this run. They say what the program is, if `sources` in `[tool.d9d]` does not.
    """

    def __init__(self, options: Options) -> None:
        self._project = project_folder(options)
        self._is_daemon = options.fine_grained_incremental
        self.catalogues = read_catalogues(self._project)
        """The declared events."""
        self._paths = named_sources(self._project) or _targets(options, self._project) or [self._project]
        self._cache = None if options.cache_dir == os.devnull else Path(options.cache_dir, "d9d")
        self._found: dict[str, list[Diagnostic]] = {}
        self._digests: dict[str, str] = {}
        self._roots = tuple(absolute(path) for path in self._paths)
        self.generation = 0
        """How often the program was read."""
        self.problem = ""
        """Why the program could not be checked."""
        self._read()

    def in_file(self, path: str) -> Sequence[Diagnostic]:
        """Return what is found in a file, by line."""
        return self._found.get(absolute(path), ()) if self._found else ()

    def refresh(self, path: str, forget_indexes: Callable[[], None]) -> set[str]:
        """In the daemon, read the program again if a file or a catalogue is no longer what was read.

        Args:
            path: The file, which mypy has just parsed.
            forget_indexes: Called if a catalogue is no longer what was read.

        Returns:
            The files in which something else is found now, or all of them if a catalogue is another.
        """
        if not self._is_daemon:
            return set()
        is_new, is_other = self._is_new(absolute(path)), self._has_another_catalogue()
        if is_other:
            forget_indexes()
        if not (is_new or is_other):
            return set()
        before = self._found
        self._read()
        if is_other:
            return set(self._digests)
        return {each for each in before.keys() | self._found.keys() if before.get(each) != self._found.get(each)}

    def _has_another_catalogue(self) -> bool:
        catalogues = read_catalogues(self._project)
        is_other = (catalogues.digest, catalogues.problems) != (self.catalogues.digest, self.catalogues.problems)
        self.catalogues = catalogues
        return is_other

    def _is_new(self, path: str) -> bool:
        known = self._digests.get(path)
        if known is None and not any(would_be_found(path, root) for root in self._roots):
            return False
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except (OSError, ValueError):
            return False
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._digests[path] = digest
        return known != digest

    def _read(self) -> None:
        self.generation += 1
        try:
            result = check_program(
                self._paths,
                self._paths,
                self._project,
                self._cache,
                ignored_by=("d9d",),
                catalogues=self.catalogues,
            )
        except Exception as error:  # noqa: BLE001 -- any fault of the check; it would stop mypy
            self.problem = f"d9d check could not check this program: {type(error).__name__}: {error}. Please report it."
            return
        self._digests |= {absolute(path): digest for path, digest in result.digests.items()}
        self._found = {}
        for each in result.diagnostics:
            if each.code in CODES:
                self._found.setdefault(absolute(each.path), []).append(each)


def absolute(path: str | Path) -> str:
    """Return the path by which findings and files are compared; it is asked for every module of a run."""
    return os.path.abspath(path)  # noqa: PTH100 -- `Path` is slow, and would follow links


def project_folder(options: Options) -> Path:
    """Return the root of the checked project: the folder of mypy's settings, or else the current one.

    It is the current folder if the settings are those of the user, or lie further down without a `pyproject.toml`.
    """
    here = Path()
    own = options.config_file and os.path.realpath(options.config_file)
    if not own or own in map(os.path.realpath, USER_CONFIG_FILES):
        return here
    folder = Path(own).parent
    is_below = folder.is_relative_to(here.resolve())
    has_settings = [(each / "pyproject.toml").exists() for each in (folder, here)]
    return here if is_below and has_settings == [False, True] else folder


def _targets(options: Options, project: Path) -> list[Path]:
    """Return the files, folders and packages that mypy's settings name."""
    named = [Path(each) for each in options.files or ()]
    roots = (project, project / "src", Path())
    packages: Iterable[str] = (*(options.packages or ()), *(options.modules or ()))
    candidates = [
        root.joinpath(*package.split(".")).with_suffix(suffix)
        for package in packages
        for root in roots
        for suffix in ("", ".py")
    ]
    return [path for path in (*named, *candidates) if path.exists()]
