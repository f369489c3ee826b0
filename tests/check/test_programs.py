"""Each rule on programs of several shapes: what it reports, and what it leaves alone.

A comment `# E[code]: message` above a line, which may continue on further comment lines, is what is reported there.
"""

import re
import shutil
from pathlib import Path

import pytest

from d9d_check.check import check
from d9d_check.codes import CODES, UNCHECKED

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
_MARKER = re.compile(r"# E\[(?P<code>[\w-]+)\]: (?P<message>.*)")
_ELSEWHERE = {"d9d-index", "d9d-syntax", "d9d-pair", "d9d-event-id", UNCHECKED}
"""Codes of what needs more than one file, or a whole line: other tests have them."""


def expected(path: Path) -> list[tuple[int, str, str]]:
    """Return what the markers of a program say: line, code and message."""
    reports: list[tuple[int, str, str]] = []
    pending: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if match := _MARKER.fullmatch(text):
            pending.append((match["code"], match["message"]))
        elif text.startswith("#   ") and pending:
            code, message = pending.pop()
            pending.append((code, f"{message} {text.removeprefix('#   ')}"))
        else:
            reports += [(number, code, message) for code, message in pending]
            pending = []
    return sorted(reports)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_what_is_reported_is_what_the_markers_say(program: Path, tmp_path: Path) -> None:
    """At the line below each marker, with its message, and nowhere else."""
    shutil.copy(program, tmp_path)

    found = check([tmp_path], use_cache=False).diagnostics

    assert [each.message for each in found if "report it" in each.message] == []
    assert sorted((each.line, each.code, each.message) for each in found if each.code != UNCHECKED) == expected(program)


def test_each_rule_has_three_programs() -> None:
    """They differ in shape, so that a rule is about the mistake and not about one way to write it."""
    counts = dict.fromkeys(CODES.keys() - _ELSEWHERE, 0)
    for program in PROGRAMS:
        for _, code, _ in expected(program):
            counts[code] += 1

    assert {code: count for code, count in counts.items() if count < 3} == {}
