"""Thirty programs with one mistake each: what mypy with the plugin, `d9d check` and `configure()` find in them."""

import dataclasses
import json
import re
import resource
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from case_project import ENVIRONMENT, ROOT
from seeded_mistakes import MISTAKES, PROGRAMS, SECONDS, Way
from verification_page import SHOWN

from d9d.mypy import diagnostics

CONFIGURATION = """
[mypy]
plugins = d9d.mypy
strict = True
mypy_path = {folder}:{root}
[mypy-torch.distributed.checkpoint]
implicit_reexport = True
"""
_OF_MYPY_ITSELF = {("context_without_annotation", "no-untyped-def")}
"""What mypy reports as well, without the plugin."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What one way finds.

    Attributes:
        reports: What was reported and its message, by program.
        seconds: The processor time of the whole run.
    """

    reports: Mapping[str, list[tuple[str, str]]]
    seconds: float


def _run_mypy(folder: Path) -> Findings:
    settings = folder.parent / "mypy.ini"
    settings.write_text(CONFIGURATION.format(folder=folder, root=ROOT), encoding="utf-8")
    options = [f"--config-file={settings}", "--cache-dir=/dev/null", "--output=json"]
    printed, seconds = _run("-m", "mypy", *options, str(folder))
    reports: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in map(json.loads, printed.splitlines()):
        program = Path(each["file"]).stem
        if each["severity"] == "error" and (program, each["code"]) not in _OF_MYPY_ITSELF:
            reports[program].append((each["code"], each["message"]))
    return Findings(reports, seconds)


def _run_check(folder: Path) -> Findings:
    printed, seconds = _run("-m", "d9d_check", "--format=json", "--no-cache", str(folder))
    reports: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in json.loads(printed):
        reports[Path(each["path"]).stem].append((each["code"], each["message"]))
    return Findings(reports, seconds)


def _start(folder: Path) -> Findings:
    programs = [mistake.program for mistake in MISTAKES]
    printed, seconds = _run(str(Path(__file__).with_name("start_programs.py")), str(folder), *programs)
    raised = json.loads(printed).items()
    return Findings({program: [(kind, message)] for program, (kind, message) in raised}, seconds)


def _run(*arguments: str) -> tuple[str, float]:
    """Run Python, and return what it prints and the processor time that it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.stdout, ended.stderr
    return ended.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_there_are_thirty_programs_and_ten_are_public_reports() -> None:
    """Each program is in the table, and no report is there twice."""
    reports = [mistake.report for mistake in MISTAKES if mistake.report is not None]

    assert len(MISTAKES) == 30
    assert {mistake.program for mistake in MISTAKES} == {path.stem for path in PROGRAMS.glob("*.py")} - {"parts"}
    assert len(set(reports)) == len(reports) >= 10
    assert [report for report in reports if not re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", report)] == []


def test_no_code_of_the_plugin_is_left_out() -> None:
    """A deprecated name is no mistake."""
    codes = {code for mistake in MISTAKES for found in mistake.found_by.values() for code in found}

    assert set(SHOWN["verification"]) - {diagnostics.DEPRECATED.code} - codes == set()


@pytest.mark.parametrize("way", Way, ids=lambda way: way.name.lower())
def test_a_way_finds_what_the_page_says_and_nothing_else(way: Way, tmp_path: Path) -> None:
    """In one run over all programs: the codes, what each message names, and a time that fits slow machines too."""
    folder = tmp_path / "programs"
    shutil.copytree(PROGRAMS, folder, ignore=shutil.ignore_patterns("__pycache__"))

    found = {Way.MYPY: _run_mypy, Way.CHECK: _run_check, Way.START: _start}[way](folder)

    codes = {program: {code for code, _ in reports} for program, reports in found.reports.items()}
    assert codes == {each.program: each.found_by[way] for each in MISTAKES if way in each.found_by}
    messages = [(each.named, message) for each in MISTAKES for _, message in found.reports.get(each.program, [])]
    assert [message for named, message in messages if named not in message] == []
    assert 0 < found.seconds < SECONDS[way]
