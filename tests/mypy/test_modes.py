"""The cases report the same however mypy is run: cold and warm, after edits, by a daemon, in another version."""

import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from case_project import ENVIRONMENT, ROOT, Project, Report, copy_cases, expected_reports

IMPORTED_FILES: Final = (
    "chain_middle.py",
    "lab/events/trial.py",
    "moments/train.py",
    "order_base.py",
    "own_events.py",
    "unregistered_base.py",
)
"""Files that other cases import: when one of them is edited, the rest comes from the cache."""
edited_files = pytest.mark.parametrize(
    "files", [IMPORTED_FILES, pytest.param((), marks=pytest.mark.slow)], ids=["imported", "all"]
)


LISTENER: Final = """
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext

class Listener:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
"""
SCRIPT: Final = """
from typing import Any

from d9d import TrainingConfigurator
from listener import Listener

def run(parts: dict[str, Any]) -> None:
    TrainingConfigurator(**parts, subscribers=[Listener()])
"""


class Daemon:
    """A daemon of mypy that checks one project.

    Args:
        project: What it checks.
        python: The environment that mypy is installed in.
    """

    def __init__(self, project: Project, python: str = sys.executable) -> None:
        self._project = project
        self._client = (python, "-m", "mypy.dmypy", f"--status-file={project.folder.parent / 'daemon.json'}")
        self._run("start", "--", *project.settings())

    def check(self) -> list[Report]:
        """Check the whole project; the daemon remembers what has not changed since the last time."""
        return self._project.check_with(*self._client, "check")

    def kill(self) -> None:
        """Kill the daemon, whatever it is doing."""
        self._run("kill")

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._client, *arguments], env=ENVIRONMENT, check=True, capture_output=True, timeout=60)


@pytest.fixture(name="project")
def _project(tmp_path: Path) -> Project:
    """A copy of all cases, without a cache."""
    return copy_cases(tmp_path / "project")


@pytest.fixture(name="daemon_project", scope="module")
def _daemon_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of all cases, which the daemon below checks. A test leaves it without further errors."""
    return copy_cases(tmp_path_factory.mktemp("daemon") / "project")


@pytest.fixture(name="daemon", scope="module")
def _daemon(daemon_project: Project) -> Iterator[Daemon]:
    """A daemon that has checked the project once."""
    daemon = Daemon(daemon_project)
    try:
        assert daemon.check() == expected_reports()
        yield daemon
    finally:
        daemon.kill()


@edited_files
def test_after_an_edit_of_one_file(project: Project, files: Sequence[str]) -> None:
    """The cache contains what the check of the edited file needs to know of the others."""
    assert project.check() == expected_reports()

    for file in files or project.files():
        project.append("EDITED = True", file)

        assert project.check() == expected_reports(), file


@pytest.mark.parametrize(
    "options",
    [["--num-workers=2"], ["--sqlite-cache", "--no-fixed-format-cache"], ["--no-native-parser"]],
    ids=["workers", "cache", "parser"],
)
def test_in_another_mode(project: Project, options: list[str]) -> None:
    """In several processes, with another kind of cache, with another parser: cold, warm, and after an edit."""
    command = (sys.executable, "-m", "mypy", *project.settings(), *options)

    assert project.check_with(*command) == expected_reports()
    assert project.check_with(*command) == expected_reports()

    project.append("EDITED = True", "own_events.py")
    assert project.check_with(*command) == expected_reports()


@edited_files
def test_a_daemon_after_an_edit_of_one_file(daemon_project: Project, daemon: Daemon, files: Sequence[str]) -> None:
    """The daemon uses what it has in memory, some of it from before earlier edits."""
    for file in files or daemon_project.files():
        daemon_project.append("EDITED = True", file)

        assert daemon.check() == expected_reports(), file


def test_a_daemon_sees_a_mistake_come_and_go(daemon_project: Project, daemon: Daemon) -> None:
    """A handler that becomes wrong is reported, until it is right again."""
    right, wrong = "def right(self, ctx: EventReadyContext)", "def right(self, ctx)"
    daemon_project.edit("untyped.py", right, wrong)

    (report,) = set(daemon.check()) - set(expected_reports())
    assert (report.file, report.code) == ("untyped.py", "d9d-untyped-handler")

    daemon_project.edit("untyped.py", wrong, right)
    assert daemon.check() == expected_reports()


def test_a_daemon_sees_an_edited_body_of_a_base_class(daemon_project: Project, daemon: Daemon) -> None:
    """On its own, the daemon only looks for changes of attributes and their types."""
    right, wrong = "        subscribe_annotated(ctx.event_bus, self)", "        pass"
    daemon_project.edit("chain_base.py", right, wrong)

    (report,) = set(daemon.check()) - set(expected_reports())
    assert (report.file, report.code) == ("chain.py", "d9d-unregistered")

    daemon_project.edit("chain_base.py", wrong, right)
    assert daemon.check() == expected_reports()


def test_a_daemon_sees_an_edited_index(daemon_project: Project, daemon: Daemon) -> None:
    """When it next reads a file: it looks at no others."""
    daemon_project.edit("lab/events/index.json", '"version": 1', '"version": 2')
    daemon_project.append("EDITED = True", "own_events.py")

    assert "d9d-index" in {each.code for each in daemon.check()}

    daemon_project.edit("lab/events/index.json", '"version": 2', '"version": 1')
    daemon_project.append("EDITED = True", "own_events.py")
    assert daemon.check() == expected_reports()


def test_a_daemon_sees_what_another_module_does_to_a_handler(tmp_path: Path) -> None:
    """The module where it is reported neither imports the edited one, nor is it edited."""
    project = copy_cases(tmp_path / "project", "own_events.py")
    (project.folder / "listener.py").write_text(LISTENER, encoding="utf-8")
    (project.folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    daemon = Daemon(project)
    try:
        assert daemon.check() == []

        project.edit("script.py", "[Listener()]", "[]")
        (report,) = daemon.check()
        assert (report.file, report.code) == ("listener.py", "d9d-unregistered")
        assert daemon.check() == [report]

        project.edit("script.py", "[]", "[Listener()]")
        assert daemon.check() == []
    finally:
        daemon.kill()


def test_a_daemon_starts_from_a_cache(project: Project) -> None:
    """The cache may come from another daemon, or from mypy itself."""
    assert project.check("--cache-fine-grained") == expected_reports()
    daemon = Daemon(project)
    try:
        assert daemon.check() == expected_reports()
        project.append("EDITED = True", "own_events.py")
        assert daemon.check() == expected_reports()
    finally:
        daemon.kill()


def oldest() -> str:
    """Return the requirement of the oldest supported mypy."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = declared["project"]["optional-dependencies"]["mypy"]
    return str(requirement).replace(">=", "==")


@pytest.mark.slow
@pytest.mark.parametrize(
    "requirements", [(oldest(),), ("mypy",), ("mypy", "--no-binary=mypy")], ids=["oldest", "newest", "not compiled"]
)
def test_with_another_mypy(project: Project, tmp_path: Path, requirements: tuple[str, ...]) -> None:
    """In a fresh environment without torch and pydantic: cold, warm, after an edit, and by a daemon."""
    venv.create(tmp_path / "environment", with_pip=True, symlinks=True)
    python = str(tmp_path / "environment" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True, capture_output=True)
    command = (python, "-m", "mypy", *project.settings())

    assert project.check_with(*command) == expected_reports()
    assert project.check_with(*command) == expected_reports()
    assert project.check_with(*command, "--num-workers=2") == expected_reports()

    project.append("EDITED = True", "own_events.py")
    assert project.check_with(*command) == expected_reports()
    daemon = Daemon(project, python)
    try:
        assert daemon.check() == expected_reports()
        project.append("EDITED = True", "own_events.py")
        assert daemon.check() == expected_reports()
    finally:
        daemon.kill()
