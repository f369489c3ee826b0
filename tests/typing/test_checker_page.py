"""The same cases for all type checkers: they refuse what is wrong by type, and accept what is right."""

import sys
from pathlib import Path

import pytest
from checker_page import Case, check_cases, checker_page, read_cases, refuses
from type_checkers import CHECKERS, ROOT, WITH_PLUGIN, Report

PAGE = ROOT / "docs" / "type-checkers.md"


@pytest.fixture(name="reports", scope="module")
def _reports() -> dict[str, list[Report]]:
    """What each checker reports for the cases."""
    return check_cases()


def surprises(kind: str, reports: list[Report], *, refused: bool) -> list[Case]:
    """Return the cases of a kind for which a checker gives the wrong answer."""
    return [case for case in read_cases() if case.kind == kind and refuses(case, reports) != refused]


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_wrong_by_type_is_refused(reports: dict[str, list[Report]], checker: str) -> None:
    """By every checker, except those that the case lists as exceptions."""
    accepted = surprises("wrong", reports[checker], refused=True)

    assert accepted == [case for case in read_cases() if case.kind == "wrong" and checker in case.exceptions]


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_right_is_accepted(reports: dict[str, list[Report]], checker: str) -> None:
    """By every checker, except those that the case lists as exceptions."""
    refused = surprises("right", reports[checker], refused=False)

    assert refused == [case for case in read_cases() if case.kind == "right" and checker in case.exceptions]


@pytest.mark.parametrize("checker", CHECKERS)
def test_nothing_outside_the_cases_is_refused(reports: dict[str, list[Report]], checker: str) -> None:
    """The code that the cases share is right."""
    first = read_cases()[0].lines.start

    assert [each for each in reports[checker] if each.line < first] == []


def test_with_the_plugin_no_case_is_an_exception() -> None:
    """It refuses everything that is wrong by type, and accepts everything that is right."""
    assert [case for case in read_cases() if WITH_PLUGIN in case.exceptions] == []


def test_the_committed_page_shows_what_the_checkers_report(reports: dict[str, list[Report]]) -> None:
    """The committed page is the output of `make generate`."""
    assert PAGE.read_text(encoding="utf-8") == checker_page(reports)


def test_a_missing_checker_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the command that installs it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(RuntimeError, match="ty is not installed: `make setup` installs it"):
        CHECKERS["ty"](tmp_path / "handlers.py")
