"""What mypy reports with the plugin, for programs, settings and edits."""

import dataclasses
import sys
from pathlib import Path
from types import FrameType

import pytest
from case_project import CONFIGURATION, CheckedCases, Copier, copy_cases, expected_reports

import d9d.mypy
from d9d.mypy import diagnostics, dispatch, program
from d9d.mypy import plugin as entry
from d9d.mypy.checks import registration
from d9d.mypy.dispatch import SIGNATURES, D9dPlugin

WRONG_HANDLER = """\
from lab.events.trial import EVENT_TRIAL_READY, EventRoundContext
from d9d.loop.event import subscribe

class Subscriber:
    @subscribe(EVENT_TRIAL_READY)
    def wrong(self, ctx: EventRoundContext) -> None: ...
"""
UNCHECKED = """\
from typing import Any
from lab.events.trial import EVENT_TRIAL_READY, EVENT_TRIAL_ROUND_POST, EVENT_TRIAL_TURN_POST

def decorate(*events: Any) -> Any: ...

@decorate(EVENT_TRIAL_TURN_POST)
def unchecked(first, second=EVENT_TRIAL_READY):
    return EVENT_TRIAL_TURN_POST
"""


def with_setting(modules: str, setting: str) -> str:
    """Return the configuration with one more setting for some modules; what others have in the cache stays valid."""
    return f"{CONFIGURATION}[mypy-{modules}]\n{setting}\n"


def test_cases_report_what_their_markers_say(checked_cases: CheckedCases) -> None:
    """Each error is reported at its line, and right code has none."""
    assert checked_cases.reports == expected_reports()


def test_a_warm_run_sees_an_edited_index(copy: Copier) -> None:
    """Modules that use a catalogue are checked again when its index changes, even if its modules do not."""
    project = copy("untyped.py")
    before = project.check()

    project.edit("moments/index.json", '"train.ready"', '"train.all_set"')

    after = [dataclasses.replace(each, message=each.message.replace("train.ready", "train.all_set")) for each in before]
    assert project.check() == after


@pytest.mark.parametrize("module", ["d9d.loop.event", "d9d"])
def test_a_warm_run_sees_a_namespace_that_a_catalogue_has_claimed(copy: Copier, module: str) -> None:
    """Modules that define events are checked again when a catalogue of the project gets a module, imported or not."""
    project = copy("own_events.py")
    project.edit("own_events.py", "from d9d.loop.event import", f"from {module} import")
    assert not project.check()

    project.edit("lab/events/index.json", '"modules": {', '"modules": {\n    "user": {},')

    assert [each.code for each in project.check()] == ["d9d-event-id"]


def test_a_warm_run_sees_edited_rules(copy: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the plugin checks subscribers again, even if their files have not changed."""
    project = copy("untyped.py")
    with monkeypatch.context() as older:
        older.setattr(dispatch, "SIGNATURES", {})
        older.setattr(dispatch, "digest_of_rules", lambda: "older")
        assert not project.check_in_process()

    assert project.check() == [each for each in expected_reports() if each.file == "untyped.py"]


def test_a_warm_run_sees_an_edited_body_of_a_base_class(copy: Copier) -> None:
    """What an indirect base class in another module registers counts for its subclasses, even if no type changes."""
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
def test_without_a_valid_index_ids_come_from_the_source(copy: Copier, content: str) -> None:
    """With a missing or broken index, the same errors are reported."""
    project = copy("untyped.py")
    (project.folder / "moments" / "index.json").write_text(content, encoding="latin-1")

    reports = [each for each in project.check() if each.file == "untyped.py"]

    assert reports == [each for each in expected_reports() if each.file == "untyped.py"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "lab.events has no index.json"),
        ("{", "index.json: Expecting property name"),
        ("[" * 100_000, "index.json: maximum recursion depth exceeded"),
        ("[]", "index.json is not an index of events"),
        ('{"version": 2, "events": {}}', "index.json has the format 2"),
        ('{"version": 1, "events": {"lab.events.trial.EVENT_GONE": {}}}', "does not have EVENT_GONE"),
    ],
    ids=["missing", "unreadable", "nested", "other", "newer", "stale"],
)
def test_an_index_that_cannot_be_used_is_an_error_where_the_catalogue_is_imported(
    copy: Copier, content: str | None, problem: str
) -> None:
    """Warm as well: the modules that import the catalogue are checked again, until the index is right."""
    project = copy("own_events.py")
    (project.folder / "user.py").write_text(WRONG_HANDLER, encoding="utf-8")
    index = project.folder / "lab" / "events" / "index.json"
    before, right = project.check(), index.read_text(encoding="utf-8")

    index.unlink()
    if content is not None:
        index.write_text(content, encoding="utf-8")
    reports = [each for each in project.check() if each.code == "d9d-index"]
    again = [each for each in project.check() if each.code == "d9d-index"]
    index.write_text(right, encoding="utf-8")

    assert reports == again
    assert {("user.py", 1)} <= {(each.file, each.line) for each in reports}
    assert all(problem in each.message and "run d9d-catalogue generate" in each.message for each in reports)
    assert project.check() == before


def test_a_deprecated_use_is_reported_once_next_to_mypys_own_code(copy: Copier) -> None:
    """With `deprecated` enabled, mypy itself reports a deprecated property; all else stays the same."""
    project = copy("deprecated.py", "deprecated_base.py")
    before = project.check()

    after = project.check(configuration=with_setting("deprecated,deprecated_base", "enable_error_code = deprecated"))

    assert [(each.file, each.line) for each in after] == [(each.file, each.line) for each in before]
    assert {each.code for each in after} == {"d9d-deprecated", "deprecated"}
    assert not project.check(
        configuration=with_setting("deprecated,deprecated_base", "disable_error_code = deprecated")
    )


def test_deprecated_uses_in_a_stub_are_reported(copy: Copier) -> None:
    """A stub has no handlers, but may name contexts."""
    project = copy("own_events.py")
    stub = "from lab.events.trial import EventTurnContext\n\nclass Stub:\n    turn: EventTurnContext\n"
    (project.folder / "stub.pyi").write_text(stub, encoding="utf-8")

    assert [(each.line, each.code) for each in project.check()] == [(4, "d9d-deprecated")]


def test_bodies_that_mypy_does_not_check_are_skipped(copy: Copier) -> None:
    """Without `check_untyped_defs`, the bodies of unannotated functions are skipped, but not their decorators."""
    project = copy("own_events.py")
    (project.folder / "unchecked.py").write_text(UNCHECKED, encoding="utf-8")

    unchecked = project.check(configuration=with_setting("unchecked", "check_untyped_defs = False"))
    assert [(each.line, each.code) for each in unchecked] == [(6, "d9d-deprecated")]
    assert [(each.line, each.code) for each in project.check()] == [(6, "d9d-deprecated"), (8, "d9d-deprecated")]


def test_a_warm_run_sees_a_newly_deprecated_name(copy: Copier) -> None:
    """Modules that use it are checked again, even if its own module has not changed."""
    project = copy("deprecated.py", "deprecated_base.py")
    before = {each.message for each in project.check()}

    status = '"deprecated": {"since": "0.9"},'
    project.edit("lab/events/index.json", '"id": "trial.ready",', f'"id": "trial.ready", {status}')

    assert {each.message for each in project.check()} - before == {
        'EVENT_TRIAL_READY ("trial.ready") is deprecated since 0.9: there is no replacement'
    }


def test_ignore_comments_that_name_the_code_count_as_used(copy: Copier) -> None:
    """With `warn_unused_ignores`, the plugin's codes count as used; mypy suggests them instead of the broad ones."""
    project = copy("ignored.py")

    reports = project.check(configuration=with_setting("ignored", "warn_unused_ignores = True"))

    assert [each.message for each in reports] == [
        'Unused "type: ignore" comment, use narrower [d9d-handler] instead of [arg-type] code',
        'Unused "type: ignore" comment, use narrower [d9d-untyped-handler] instead of [no-untyped-def] code',
        'Unused "type: ignore" comment, use narrower [d9d-handler] instead of [arg-type] code',
    ]


def test_codes_can_be_disabled(copy: Copier) -> None:
    """`disable_error_code` accepts the codes of the plugin, and those that they refine."""
    project = copy("untyped.py")

    assert not project.check("--disable-error-code=d9d-untyped-handler")
    assert not project.check(configuration=with_setting("untyped", "disable_error_code = no-untyped-def"))
    assert project.check(configuration=with_setting("untyped", "disable_error_code = d9d-handler"))


def test_codes_can_be_disabled_in_one_module(copy: Copier) -> None:
    """A section of the configuration for one module changes the codes only there."""
    project = copy("untyped.py", "wrong_shape.py")

    reports = project.check(configuration=with_setting("wrong_shape", "disable_error_code = d9d-handler, misc"))

    assert {"untyped.py"} == {each.file for each in reports}


def test_a_crash_in_a_check_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the plugin is reported where it happened, and mypy continues with its own rules."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    for name in SIGNATURES:
        monkeypatch.setitem(SIGNATURES, name, crash)

    messages = {each.message for each in copy_cases(tmp_path / "project", "untyped.py").check_in_process()}

    crashed = f"{crash.__module__}.{crash.__name__} raised RuntimeError: out of ideas"
    assert messages == {f"d9d.mypy could not check this: {crashed}. Please report it."}


def test_a_crash_in_a_check_of_a_module_is_a_note_at_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no better position, and mypy shows the note once per module."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(dispatch, "MODULES", ((diagnostics.DEPRECATED, crash),))

    reports = copy_cases(tmp_path / "project", "deprecated_script.py").check_in_process()

    assert {each.line for each in reports} == {1}
    assert [each.file for each in reports].count("deprecated_script.py") == 1


def test_a_crash_in_a_check_of_a_class_is_a_note_at_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handlers are still checked."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of ideas")

    project = copy_cases(tmp_path / "project", "unannotated_registration.py")
    monkeypatch.setattr(registration, "check_annotated", crash)

    reports = [each for each in project.check_in_process() if each.file == "unannotated_registration.py"]

    crashes = {each.line for each in reports if "out of ideas" in each.message}
    lines = project.lines("unannotated_registration.py")
    assert crashes == {line for line, text in lines if text.endswith(("(TrainTask):", "(ModelProvider):"))}


def test_a_crash_of_the_check_of_the_program_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mypy's own rules and those of the plugin go on."""

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(program, "check_program", crash)

    reports = copy_cases(tmp_path / "project", "untyped.py").check_in_process()

    crashed = "d9d check could not check this program: RuntimeError: out of ideas. Please report it."
    assert crashed in {each.message for each in reports}
    assert {each for each in expected_reports() if each.file == "untyped.py"} <= set(reports)


def test_a_wrong_handler_is_found_in_few_files(tmp_path: Path) -> None:
    """Code of 16 files of the plugin runs: one for each check that may apply."""
    project = copy_cases(tmp_path / "project", "own_events.py")
    assert not project.check_in_process()
    (project.folder / "wrong.py").write_text(WRONG_HANDLER, encoding="utf-8")
    folder = Path(d9d.mypy.__file__).parent
    files: set[Path] = set()

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            files.add(Path(frame.f_code.co_filename))

    sys.setprofile(record)
    try:
        reports = project.check_in_process()
    finally:
        sys.setprofile(None)

    assert [each.code for each in reports] == ["d9d-handler"]
    assert len([file for file in files if file.is_relative_to(folder)]) <= 16


def test_the_entry_can_be_called_again() -> None:
    """A process may run mypy many times, as a daemon does: importing the plugin must not hide its entry point."""
    assert entry("3.0+dev") is D9dPlugin
    assert d9d.mypy.plugin is entry
