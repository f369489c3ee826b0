"""Copies of the cases, and what mypy reports for them.

Each program under `cases` contains the expected reports of mypy: a comment `# E[code]: text`, which may continue on
further comment lines, above the line of the error; for a note, `# N: text`. Code without such a comment is right,
and mypy must accept it.
"""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import mypy.api

CASES = Path(__file__).parent / "cases"
STUBS = Path(__file__).parent / "stubs"
ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"# (?:E\[(?P<code>[\w-]+)\]|N): (?P<message>.*)")
PRINTED = re.compile(r"(?P<file>.+?):(?P<line>\d+): (?:error|note): (?P<message>.*?)(?:  \[(?P<code>[\w-]+)\])?")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "codegen")))}

# Strict, except for mypy's own errors about functions without annotations: the cases are about the plugin's errors.
# Small stubs replace torch: with torch itself, a run takes seven times as long. `no_site_packages` keeps mypy from
# finding the modules of torch that have no stub. `follow_imports = skip` would do too, but then mypy's daemon (2.4.1)
# hangs in a check after an edit, even without a plugin and with no more code than `import torch`.
CONFIGURATION: Final = """
[mypy]
plugins = d9d.mypy
no_site_packages = True
strict = True
disallow_untyped_defs = False
disallow_incomplete_defs = False
disallow_any_generics = False
warn_unused_ignores = False
mypy_path = {folder}:{stubs}:{root}
[mypy-d9d.*]
ignore_errors = True
"""


@dataclasses.dataclass(frozen=True, order=True)
class Report:
    """What mypy reports for one line of a program."""

    file: str
    line: int
    code: str
    message: str


@dataclasses.dataclass(frozen=True)
class Project:
    """A copy of the cases with a separate mypy cache."""

    folder: Path

    @property
    def cache(self) -> Path:
        """The folder of mypy's cache."""
        return self.folder.parent / "cache"

    def check(self, *options: str, configuration: str = CONFIGURATION) -> list[Report]:
        """Run mypy over the whole project, and return its reports.

        In another process: what mypy leaves behind takes longer to free than a process takes to start.
        """
        return self.check_with(sys.executable, "-m", "mypy", *self.settings(configuration), *options)

    def check_in_process(self, configuration: str = CONFIGURATION) -> list[Report]:
        """Do the same in this process, for a test that changes or observes the plugin."""
        out, problems, _ = mypy.api.run([*self.settings(configuration), str(self.folder)])
        assert not problems
        return read_reports(out)

    def check_with(self, *command: str | Path) -> list[Report]:
        """Run a command, mypy or its daemon's client, over the whole project, and return its reports."""
        ended = subprocess.run(
            [*command, self.folder], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )
        assert (ended.returncode, ended.stderr) in {(0, ""), (1, "")}
        return read_reports(ended.stdout)

    def settings(self, configuration: str = CONFIGURATION) -> Sequence[str]:
        """Return the arguments that configure mypy for this project."""
        settings = self.folder / "mypy.ini"  # next to the pyproject.toml that names the catalogue
        settings.write_text(configuration.format(folder=self.folder, stubs=STUBS, root=ROOT), encoding="utf-8")
        return [f"--config-file={settings}", f"--cache-dir={self.cache}", "--no-error-summary"]

    def edit(self, file: str, old: str, new: str) -> None:
        """Change the text of one file."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def lines(self, file: str) -> list[tuple[int, str]]:
        """Return the lines of one file, with their numbers."""
        return list(enumerate((self.folder / file).read_text(encoding="utf-8").splitlines(), start=1))

    def append(self, line: str, file: str) -> None:
        """Add a line at the end of one file."""
        with (self.folder / file).open("a", encoding="utf-8") as opened:
            opened.write(f"\n{line}\n")

    def files(self) -> list[str]:
        """Return the paths of all Python files below the folder, including those of the catalogues."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.py"))


@dataclasses.dataclass(frozen=True)
class CheckedCases:
    """A copy of the cases, and what mypy reports for it."""

    project: Project
    reports: list[Report]


Copier: TypeAlias = Callable[..., Project]
"""The type of the fixture `copy`: it copies cases to a folder of the test."""


def copy_cases(folder: Path, *files: str) -> Project:
    """Copy the catalogues and the named cases, or all cases if none is named."""
    shutil.copytree(CASES, folder)
    for path in folder.glob("*.py"):
        if files and path.name not in files:
            path.unlink()
    return Project(folder)


def read_reports(printed: str) -> list[Report]:
    """Parse the output of mypy."""
    matches = [PRINTED.fullmatch(line) for line in printed.splitlines() if not line.startswith("Success: ")]
    assert None not in matches, printed
    return sorted(
        Report(Path(match["file"]).name, int(match["line"]), match["code"] or "", match["message"])
        for match in matches
        if match
    )


def expected_reports() -> list[Report]:
    """Return the reports in the markers of all cases."""
    return sorted(report for path in CASES.glob("*.py") for report in markers(path))


def markers(path: Path) -> list[Report]:
    """Return the reports in the markers of one case."""
    reports: list[Report] = []
    pending: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if match := MARKER.fullmatch(text):
            pending.append((match["code"] or "", match["message"]))
        elif text.startswith("#   ") and pending:
            code, message = pending.pop()
            pending.append((code, f"{message} {text.removeprefix('#   ')}"))
        else:
            reports += [Report(path.name, number, code, message) for code, message in pending]
            pending = []
    return reports
