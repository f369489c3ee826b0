"""The plugin, seen through programs that mypy checks with it.

Each program under `cases` says what mypy reports: a comment `# E[code]: text`, continued on further lines of comment,
stands above the line of the error. What has no such comment is right, and mypy must report nothing for it.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mypy.api
import pytest
from mypy.dmypy_server import Server, process_start_options

import d9d.mypy
from d9d.mypy import dispatch
from d9d.mypy import plugin as entry
from d9d.mypy.dispatch import METHOD_SIGNATURES, D9dPlugin

CASES = Path(__file__).parent / "cases"
STUBS = Path(__file__).parent / "stubs"
ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"# E\[(?P<code>[\w-]+)\]: (?P<message>.*)")

# Strict, but for what mypy itself says of functions without annotations: the cases are about what the plugin says.
# A small stub stands in for torch: reading all of torch would cost more time than all the rest.
CONFIGURATION = """
[mypy]
plugins = d9d.mypy
strict = True
enable_error_code = d9d-host-sync, d9d-collective, d9d-order
disallow_untyped_defs = False
disallow_incomplete_defs = False
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
        settings = self.folder.parent / "mypy.ini"
        settings.write_text(configuration.format(folder=self.folder, stubs=STUBS, root=ROOT), encoding="utf-8")
        cache = self.folder.parent / "cache"
        out, problems, _ = mypy.api.run(
            [f"--config-file={settings}", f"--cache-dir={cache}", "--output=json", *options, str(self.folder)]
        )
        assert not problems
        entries = [json.loads(line) for line in out.splitlines() if line]
        return sorted(
            Report(Path(each["file"]).name, each["line"], each["code"] or "", each["message"]) for each in entries
        )

    def edit(self, file: str, old: str, new: str) -> None:
        """Change the text of one file."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Callable[..., Project]:
    def copy(*files: str) -> Project:
        """Copy the catalogue and the named cases: all of them, if none is named."""
        folder = tmp_path / "project"
        shutil.copytree(CASES, folder)
        if files:
            for path in folder.glob("*.py"):
                if path.name not in files:
                    path.unlink()
        return Project(folder)

    return copy


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


def test_cases_report_what_their_markers_say_cold_and_warm_and_after_an_edit(copy: Callable[..., Project]) -> None:
    """Mypy reports the same with no cache, from the cache, and when it checks one file again beside cached ones."""
    project = copy()

    assert project.check() == expected_reports()
    assert project.check() == expected_reports()

    for path in project.folder.glob("*.py"):
        path.write_text(path.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    assert project.check() == expected_reports()


def test_an_edited_index_is_heeded_by_a_warm_run(copy: Callable[..., Project]) -> None:
    """Whoever uses a catalogue is checked again when its index changes, though no module of it did."""
    project = copy("untyped.py")
    before = project.check()

    project.edit("moments/index.json", '"train.ready"', '"train.all_set"')

    after = [dataclasses.replace(each, message=each.message.replace("train.ready", "train.all_set")) for each in before]
    assert project.check() == after


def test_edited_rules_are_heeded_by_a_warm_run(copy: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the plugin checks subscribers again, though no file of theirs changed."""
    project = copy("untyped.py")
    with monkeypatch.context() as older:
        older.setattr(dispatch, "METHOD_SIGNATURES", {})
        older.setattr(dispatch, "digest_of_rules", lambda: "older")
        assert not project.check()

    assert project.check() == [each for each in expected_reports() if each.file == "untyped.py"]


def test_an_edited_body_of_a_base_class_is_heeded_by_a_warm_run(copy: Callable[..., Project]) -> None:
    """What a base of a base in another module registers decides on its subclasses, though no type of it changed."""
    project = copy("chain_base.py", "chain_middle.py", "chain.py")
    assert not project.check()

    project.edit("chain_base.py", "subscribe_annotated(ctx.event_bus, self)", "pass")
    (unregistered,) = project.check()
    project.edit("chain_base.py", "        pass", "        subscribe_annotated(ctx.event_bus, self)")

    assert (unregistered.file, unregistered.code) == ("chain.py", "d9d-unregistered")
    assert not project.check()


def test_an_edited_body_of_a_base_class_is_heeded_by_the_daemon(copy: Callable[..., Project]) -> None:
    """The daemon sees it as well, which looks for changes of attributes and their types alone."""
    project = copy("chain_base.py", "chain_middle.py", "chain.py")
    settings = project.folder.parent / "mypy.ini"
    settings.write_text(CONFIGURATION.format(folder=project.folder, stubs=STUBS, root=ROOT), encoding="utf-8")
    flags = [f"--config-file={settings}", f"--cache-dir={project.folder.parent / 'cache'}", "--no-error-summary"]
    daemon = Server(process_start_options(flags, allow_sources=False), str(project.folder.parent / "status.json"))

    def check() -> Any:
        return daemon.cmd_check([str(project.folder)], export_types=False, is_tty=False, terminal_width=80)["out"]

    assert not check()
    project.edit("chain_base.py", "subscribe_annotated(ctx.event_bus, self)", "pass")
    assert "[d9d-unregistered]" in check()
    project.edit("chain_base.py", "        pass", "        subscribe_annotated(ctx.event_bus, self)")
    assert not check()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"events": 1}', '{"events": {"moments.train.EVENT_TRAIN_READY": 1}}', "\xff"]
)
def test_an_index_that_is_none_leaves_the_check_as_it_is(copy: Callable[..., Project], content: str) -> None:
    """A missing or broken index costs only what it would have said: ids are then read from the source."""
    project = copy("untyped.py")
    (project.folder / "moments" / "index.json").write_text(content, encoding="latin-1")

    assert [each for each in expected_reports() if each.file == "untyped.py"] == project.check()


def test_ignore_comments_that_name_the_code_count_as_used(copy: Callable[..., Project]) -> None:
    """With unused comments reported, the codes of the plugin are used; mypy advises them in place of the broad ones."""
    project = copy("ignored.py")

    reports = project.check("--warn-unused-ignores")

    assert [each.message for each in reports] == [
        'Unused "type: ignore" comment, use narrower [d9d-handler] instead of [arg-type] code',
        'Unused "type: ignore" comment, use narrower [d9d-untyped-handler] instead of [no-untyped-def] code',
        'Unused "type: ignore" comment, use narrower [d9d-handler] instead of [arg-type] code',
    ]


def test_codes_can_be_disabled(copy: Callable[..., Project]) -> None:
    """`disable_error_code` takes the codes of the plugin, and those that they refine."""
    project = copy("untyped.py")

    assert not project.check("--disable-error-code=d9d-untyped-handler")
    assert not project.check("--disable-error-code=no-untyped-def")
    assert project.check("--disable-error-code=d9d-handler")


def test_codes_can_be_disabled_in_one_module(copy: Callable[..., Project]) -> None:
    """A section of the configuration for one module overrides the codes there and nowhere else."""
    project = copy("untyped.py", "wrong_shape.py")

    reports = project.check(
        configuration=CONFIGURATION + "[mypy-wrong_shape]\ndisable_error_code = d9d-handler, misc\n"
    )

    assert {"untyped.py"} == {each.file for each in reports}


def test_a_crash_in_a_check_is_a_note(copy: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
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
