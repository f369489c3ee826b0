"""The plugin, seen through programs that mypy checks with it."""

import dataclasses

import pytest
from case_project import CONFIGURATION, Copier, expected_reports

import d9d.mypy
from d9d.mypy import diagnostics, dispatch
from d9d.mypy import plugin as entry
from d9d.mypy.dispatch import SIGNATURES, D9dPlugin

UNCHECKED = """\
from typing import Any
from lab.events.trial import EVENT_TRIAL_READY, EVENT_TRIAL_ROUND_POST, EVENT_TRIAL_TURN_POST

def decorate(*events: Any) -> Any: ...

@decorate(EVENT_TRIAL_TURN_POST)
def unchecked(first, second=EVENT_TRIAL_READY):
    return EVENT_TRIAL_TURN_POST
"""


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


def test_a_namespace_that_is_newly_owned_is_heeded_by_a_warm_run(copy: Copier) -> None:
    """Whoever defines events is checked again when a catalogue of the project gets a module, imported or not."""
    project = copy("own_events.py")
    assert not project.check()

    project.edit("lab/events/index.json", '"modules": {', '"modules": {\n    "user": {},')

    assert [each.code for each in project.check()] == ["d9d-event-id"]


def test_edited_rules_are_heeded_by_a_warm_run(copy: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the plugin checks subscribers again, though no file of theirs changed."""
    project = copy("untyped.py")
    with monkeypatch.context() as older:
        older.setattr(dispatch, "SIGNATURES", {})
        older.setattr(dispatch, "digest_of_rules", lambda: "older")
        assert not project.check()

    assert project.check() == [each for each in expected_reports() if each.file == "untyped.py"]


def test_an_edited_body_of_a_base_class_is_heeded_by_a_warm_run(copy: Copier) -> None:
    """What a base of a base in another module registers decides on its subclasses, though no type of it changed."""
    project = copy("chain_base.py", "chain_middle.py", "chain.py")
    assert not project.check()

    project.edit("chain_base.py", "subscribe_annotated(ctx.event_bus, self)", "pass")
    (unregistered,) = project.check()
    project.edit("chain_base.py", "        pass", "        subscribe_annotated(ctx.event_bus, self)")

    assert (unregistered.file, unregistered.code) == ("chain.py", "d9d-unregistered")
    assert not project.check()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"events": 1}', '{"events": {"moments.train.EVENT_TRAIN_READY": 1}}', "\xff"]
)
def test_an_index_that_is_none_leaves_the_check_as_it_is(copy: Copier, content: str) -> None:
    """A missing or broken index costs only what it would have said: ids are then read from the source."""
    project = copy("untyped.py")
    (project.folder / "moments" / "index.json").write_text(content, encoding="latin-1")

    reports = [each for each in project.check() if each.file == "untyped.py"]

    assert reports == [each for each in expected_reports() if each.file == "untyped.py"]


def test_a_deprecated_use_is_told_once_beside_mypys_own_code(copy: Copier) -> None:
    """With `deprecated` enabled mypy tells a property itself, and only mypy; all else stays as it is."""
    project = copy("deprecated.py", "deprecated_base.py")
    before = project.check()

    after = project.check("--enable-error-code=deprecated")

    assert [(each.file, each.line) for each in after] == [(each.file, each.line) for each in before]
    assert {each.code for each in after} == {"d9d-deprecated", "deprecated"}
    assert not project.check("--disable-error-code=deprecated")


def test_deprecated_uses_in_a_stub_are_told(copy: Copier) -> None:
    """A stub has no handlers, and names contexts all the same."""
    project = copy("own_events.py")
    stub = "from lab.events.trial import EventTurnContext\n\nclass Stub:\n    turn: EventTurnContext\n"
    (project.folder / "stub.pyi").write_text(stub, encoding="utf-8")

    assert [(each.line, each.code) for each in project.check()] == [(4, "d9d-deprecated")]


def test_bodies_that_mypy_does_not_check_are_left_alone(copy: Copier) -> None:
    """Without `check_untyped_defs` functions without annotations are unchecked, and what decorates them is not."""
    project = copy("own_events.py")
    (project.folder / "unchecked.py").write_text(UNCHECKED, encoding="utf-8")

    assert [(each.line, each.code) for each in project.check("--no-check-untyped-defs")] == [(6, "d9d-deprecated")]
    assert [(each.line, each.code) for each in project.check()] == [(6, "d9d-deprecated"), (8, "d9d-deprecated")]


def test_a_newly_deprecated_name_is_heeded_by_a_warm_run(copy: Copier) -> None:
    """Whoever uses it is checked again, though its module is the same."""
    project = copy("deprecated.py", "deprecated_base.py")
    before = {each.message for each in project.check()}

    status = '"deprecated": {"since": "0.9"},'
    project.edit("lab/events/index.json", '"id": "trial.ready",', f'"id": "trial.ready", {status}')

    assert {each.message for each in project.check()} - before == {
        'EVENT_TRIAL_READY ("trial.ready") is deprecated since 0.9: there is no replacement'
    }


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

    for name in SIGNATURES:
        monkeypatch.setitem(SIGNATURES, name, crash)

    messages = {each.message for each in copy("untyped.py").check()}

    crashed = f"{crash.__module__}.{crash.__name__} raised RuntimeError: out of ideas"
    assert messages == {f"d9d.mypy could not check this: {crashed}. Please report it."}


def test_a_crash_in_a_check_of_a_module_is_a_note_at_its_top(copy: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no better place, and mypy shows the note once for each module."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(dispatch, "MODULES", ((diagnostics.DEPRECATED, crash),))

    reports = copy("deprecated_script.py").check()

    assert {each.line for each in reports} == {1}
    assert len({each.file for each in reports}) == len(reports) > 1


def test_a_crash_in_a_check_of_a_class_is_a_note_at_the_class(copy: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers in it are checked all the same."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    project = copy("untyped.py")
    monkeypatch.setattr(dispatch, "CLASSES", ((diagnostics.SCOPE, crash),))

    reports = [each for each in project.check() if each.file == "untyped.py"]

    told = [each for each in reports if "out of ideas" in each.message]
    assert len(told) == 1
    assert [each for each in reports if each not in told] == [
        each for each in expected_reports() if each.file == "untyped.py"
    ]


def test_the_entry_can_be_called_again() -> None:
    """A process may run mypy many times, as a daemon or a test does: importing the plugin must not hide its entry."""
    assert entry("3.0+dev") is D9dPlugin
    assert d9d.mypy.plugin is entry
