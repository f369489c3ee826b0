"""Runs type checkers, each with its default settings, and parses their reports."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
WITH_PLUGIN = "mypy with `d9d.mypy`"
_LINE_OF_TY = re.compile(r"(?P<file>.+?):(?P<line>\d+):\d+: (?P<severity>\w+)\[(?P<code>[\w-]+)\]")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a checker says about a line.

    Attributes:
        line: The line.
        code: The checker's name for the error.
        is_error: Whether it is an error, and not only a warning.
    """

    line: int
    code: str
    is_error: bool


def versions() -> dict[str, str]:
    """Return the versions of the checkers' packages."""
    return {package: version(package) for package in ("mypy", "pyright", "ty", "pyrefly")}


def _mypy(program: Path) -> list[Report]:
    return _run_mypy(program, "")


def _mypy_with_plugin(program: Path) -> list[Report]:
    return _run_mypy(program, "plugins = d9d.mypy")


# The cases do not need the types of torch, which take mypy 7 s to read and which it reaches through d9d/__init__.pyi.
# Without the installed packages it does not find torch, and reports that as errors in d9d, which are ignored.
MYPY_SETTINGS: Final = f"mypy_path = {ROOT}\nno_site_packages = True\n[mypy-d9d.*]\nignore_errors = True\n"


def _run_mypy(program: Path, setting: str) -> list[Report]:
    settings = program.with_name("mypy.ini")
    settings.write_text(f"[mypy]\n{setting}\n{MYPY_SETTINGS}", encoding="utf-8")
    output = _run(program, "mypy", f"--config-file={settings}", "--cache-dir=/dev/null", "--output=json")
    settings.unlink()  # another checker would read it
    entries = [json.loads(line) for line in output.splitlines()]
    return [Report(each["line"], each["code"], each["severity"] == "error") for each in entries]


def _pyright(program: Path) -> list[Report]:
    settings = program.with_name("pyrightconfig.json")
    settings.write_text(json.dumps({"extraPaths": [str(ROOT)]}), encoding="utf-8")
    output = _run(program, "pyright", "--outputjson", f"--project={settings}", f"--pythonpath={sys.executable}")
    entries = [each for each in json.loads(output)["generalDiagnostics"] if each["severity"] in {"error", "warning"}]
    return [Report(each["range"]["start"]["line"] + 1, each["rule"], each["severity"] == "error") for each in entries]


def _ty(program: Path) -> list[Report]:
    arguments = ("check", "--output-format=concise", f"--python={sys.executable}", f"--extra-search-path={ROOT}")
    matches = filter(None, map(_LINE_OF_TY.match, _run(program, "ty", *arguments).splitlines()))
    return [Report(int(match["line"]), match["code"], match["severity"] == "error") for match in matches]


def _pyrefly(program: Path) -> list[Report]:
    settings = program.with_name("pyrefly.toml")
    settings.write_text(f'preset = "default"\nsearch-path = [".", "{ROOT}"]\n', encoding="utf-8")
    arguments = (
        "check",
        f"--config={settings}",
        f"--python-interpreter-path={sys.executable}",
        "--output-format=json",
        "--min-severity=warn",
    )
    entries = json.loads(_run(program, "pyrefly", *arguments))["errors"]
    return [Report(each["line"], each["name"], each["severity"] == "error") for each in entries]


CHECKERS: Final[Mapping[str, Callable[[Path], list[Report]]]] = {
    "mypy": _mypy,
    WITH_PLUGIN: _mypy_with_plugin,
    "pyright": _pyright,
    "ty": _ty,
    "pyrefly": _pyrefly,
}
"""Each checks one program, which imports modules from its own folder."""


def _run(program: Path, name: str, *arguments: str) -> str:
    """Run a checker from this environment, and return its output.

    Raises:
        RuntimeError: The checker is not installed, or it crashed.
    """
    command = Path(sys.executable).parent / name
    if not command.exists():
        raise RuntimeError(f'{name} is not installed: `make setup` installs it, as does `pip install "d9d-hooks[dev]"`')
    process = subprocess.run(
        [command, *arguments, program.name], cwd=program.parent, capture_output=True, text=True, check=False
    )
    if process.returncode not in {0, 1}:
        raise RuntimeError(f"{name} ended with {process.returncode}: {process.stdout}{process.stderr}")
    return process.stdout
