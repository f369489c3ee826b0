"""The plugin, seen through programs that mypy checks with it."""

import dataclasses

import pytest
from case_project import CONFIGURATION, Copier, expected_reports

import d9d.mypy
from d9d.mypy import dispatch
from d9d.mypy import plugin as entry
from d9d.mypy.dispatch import METHOD_SIGNATURES, D9dPlugin


def test_cases_report_what_their_markers_say(copy: Copier) -> None:
    """Every error where it belongs, and none where there is no mistake."""
    assert copy().check() == expected_reports()


def test_an_edited_index_is_heeded_by_a_warm_run(copy: Copier) -> None:
    """Whoever uses a catalogue is checked again when its index changes, though no module of it did."""
    project = copy("untyped.py")
    before = project.check()

    project.edit("moments/index.json", '"train.ready"', '"train.all_set"')

    after = [dataclasses.replace(each, message=each.message.replace("train.ready", "train.all_set")) for each in before]
    assert project.check() == after


def test_edited_rules_are_heeded_by_a_warm_run(copy: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the plugin checks subscribers again, though no file of theirs changed."""
    project = copy("untyped.py")
    with monkeypatch.context() as older:
        older.setattr(dispatch, "METHOD_SIGNATURES", {})
        older.setattr(dispatch, "digest_of_rules", lambda: "older")
        assert not project.check()

    assert project.check() == [each for each in expected_reports() if each.file == "untyped.py"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"events": 1}', '{"events": {"moments.train.EVENT_TRAIN_READY": 1}}', "\xff"]
)
def test_an_index_that_is_none_leaves_the_check_as_it_is(copy: Copier, content: str) -> None:
    """A missing or broken index costs only what it would have said: ids are then read from the source."""
    project = copy("untyped.py")
    (project.folder / "moments" / "index.json").write_text(content, encoding="latin-1")

    assert [each for each in expected_reports() if each.file == "untyped.py"] == project.check()


def test_ignore_comments_that_name_the_code_count_as_used(copy: Copier) -> None:
    """With unused comments reported, the codes of the plugin are used; mypy advises them in place of the broad ones."""
    project = copy("ignored.py")

    reports = project.check("--warn-unused-ignores")

    assert [each.message for each in reports] == [
        'Unused "type: ignore" comment, use narrower [d9d-handler] instead of [arg-type] code',
        'Unused "type: ignore" comment, use narrower [d9d-untyped-handler] instead of [no-untyped-def] code',
        'Unused "type: ignore" comment, use narrower [d9d-handler] instead of [arg-type] code',
    ]


def test_codes_can_be_disabled(copy: Copier) -> None:
    """`disable_error_code` takes the codes of the plugin, and those that they refine."""
    project = copy("untyped.py")

    assert not project.check("--disable-error-code=d9d-untyped-handler")
    assert not project.check("--disable-error-code=no-untyped-def")
    assert project.check("--disable-error-code=d9d-handler")


def test_codes_can_be_disabled_in_one_module(copy: Copier) -> None:
    """A section of the configuration for one module overrides the codes there and nowhere else."""
    project = copy("untyped.py", "wrong_shape.py")

    reports = project.check(
        configuration=CONFIGURATION + "[mypy-wrong_shape]\ndisable_error_code = d9d-handler, misc\n"
    )

    assert {"untyped.py"} == {each.file for each in reports}


def test_a_crash_in_a_check_is_a_note(copy: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the plugin is told where it happened, and mypy goes on with its own rules."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    for name in METHOD_SIGNATURES:
        monkeypatch.setitem(METHOD_SIGNATURES, name, crash)

    messages = {each.message for each in copy("untyped.py").check()}

    crashed = f"{crash.__module__}.{crash.__name__} raised RuntimeError: out of ideas"
    assert messages == {f"d9d.mypy could not check this: {crashed}. Please report it."}


def test_the_entry_can_be_called_again() -> None:
    """A process may run mypy many times, as a daemon or a test does: importing the plugin must not hide its entry."""
    assert entry("3.0+dev") is D9dPlugin
    assert d9d.mypy.plugin is entry
