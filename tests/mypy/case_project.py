"""A copy of the cases, and what mypy reports of it.

Each program under `cases` says what mypy reports: a comment `# E[code]: text`, continued on further lines of comment,
stands above the line of the error. What has no such comment is right, and mypy must report nothing for it.
"""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import mypy.api

CASES = Path(__file__).parent / "cases"
STUBS = Path(__file__).parent / "stubs"
ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"# E\[(?P<code>[\w-]+)\]: (?P<message>.*)")
PRINTED = re.compile(r"(?P<file>.+?):(?P<line>\d+): (?:error|note): (?P<message>.*?)(?:  \[(?P<code>[\w-]+)\])?")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

# Strict, but for what mypy itself says of functions without annotations: the cases are about what the plugin says.
# A small stub stands in for torch: reading all of torch would cost more time than all the rest. With
# `follow_imports = skip` in its place, mypy's daemon does not come back from a check after an edit: a fault of mypy
# (2.4.1), which shows with no plugin and no more code than `import torch`.
CONFIGURATION: Final = """
[mypy]
plugins = d9d.mypy
strict = True
enable_error_code = d9d-host-sync, d9d-collective, d9d-order
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
    """What mypy says about one line of a program."""

    file: str
    line: int
    code: str
    message: str


@dataclasses.dataclass(frozen=True)
class Project:
    """A copy of the cases with a cache of its own."""

    folder: Path

    def check(self, *options: str, configuration: str = CONFIGURATION) -> list[Report]:
        """Run mypy over the whole project, in this process, and return what it reports."""
        out, problems, _ = mypy.api.run([*self.settings(configuration), *options, str(self.folder)])
        assert not problems
        return read_reports(out)

    def check_with(self, *command: str | Path) -> list[Report]:
        """Run a mypy, or its daemon's client, over the whole project, and return what it reports."""
        ended = subprocess.run(
            [*command, self.folder], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )
        assert (ended.returncode, ended.stderr) in {(0, ""), (1, "")}
        return read_reports(ended.stdout)

    def settings(self, configuration: str = CONFIGURATION) -> Sequence[str]:
        """Return the arguments that configure mypy for this project."""
        settings = self.folder / "mypy.ini"  # beside the settings that name the catalogue
        settings.write_text(configuration.format(folder=self.folder, stubs=STUBS, root=ROOT), encoding="utf-8")
        cache = self.folder.parent / "cache"
        return [f"--config-file={settings}", f"--cache-dir={cache}", "--no-error-summary"]

    def edit(self, file: str, old: str, new: str) -> None:
        """Change the text of one file."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def append(self, line: str, file: str) -> None:
        """Add a line at the end of one file."""
        with (self.folder / file).open("a", encoding="utf-8") as opened:
            opened.write(f"\n{line}\n")

    def files(self) -> list[str]:
        """Return the paths of all Python files, those of the catalogues included, below the folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.py"))


Copier: TypeAlias = Callable[..., Project]
"""What the fixture `copy` is: `copy_cases` into a folder of the test."""


def copy_cases(folder: Path, *files: str) -> Project:
    """Copy the catalogues and the named cases: all of them, if none is named."""
    shutil.copytree(CASES, folder)
    for path in folder.glob("*.py"):
        if files and path.name not in files:
            path.unlink()
    return Project(folder)


def read_reports(printed: str) -> list[Report]:
    """Read what mypy printed."""
    matches = [PRINTED.fullmatch(line) for line in printed.splitlines() if not line.startswith("Success: ")]
    assert None not in matches, printed
    return sorted(
        Report(Path(match["file"]).name, int(match["line"]), match["code"] or "", match["message"])
        for match in matches
        if match
    )


def expected_reports() -> list[Report]:
    """Read the markers of all cases."""
    return sorted(report for path in CASES.glob("*.py") for report in markers(path))


def markers(path: Path) -> list[Report]:
    """Read the markers of one case."""
    reports: list[Report] = []
    pending: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if match := MARKER.fullmatch(text):
            pending.append((match["code"], match["message"]))
        elif text.startswith("#   ") and pending:
            code, message = pending.pop()
            pending.append((code, f"{message} {text.removeprefix('#   ')}"))
        else:
            reports += [Report(path.name, number, code, message) for code, message in pending]
            pending = []
    return reports
