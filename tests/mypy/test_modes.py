"""The cases report the same however mypy is run: cold and warm, after each edit, by a daemon, as another version."""

import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from case_project import ENVIRONMENT, ROOT, Copier, Project, Report, expected_reports


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
        """Have the whole project checked; what did not change since the last time is remembered."""
        return self._project.check_with(*self._client, "check")

    def kill(self) -> None:
        """End the daemon, whatever it does."""
        self._run("kill")

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._client, *arguments], env=ENVIRONMENT, check=True, capture_output=True, timeout=60)


@pytest.fixture(name="project")
def _project(copy: Copier) -> Project:
    """A copy of all cases."""
    return copy()


@pytest.fixture(name="daemon")
def _daemon(project: Project) -> Iterator[Daemon]:
    """A daemon that has checked the project once."""
    daemon = Daemon(project)
    try:
        assert daemon.check() == expected_reports()
        yield daemon
    finally:
        daemon.kill()


def test_after_an_edit_of_any_one_file(project: Project) -> None:
    """What is checked again finds in the cache what it needs to know of the rest."""
    assert project.check() == expected_reports()

    for file in project.files():
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


def test_a_daemon_after_an_edit_of_any_one_file(project: Project, daemon: Daemon) -> None:
    """It goes by what it has in memory, some of it as it was when the daemon was started."""
    for file in project.files():
        project.append("EDITED = True", file)

        assert daemon.check() == expected_reports(), file


def test_a_daemon_sees_a_mistake_come_and_go(project: Project, daemon: Daemon) -> None:
    """A handler that becomes wrong is reported, and is not any more once it is right again."""
    right, wrong = "def right(self, ctx: EventReadyContext)", "def right(self, ctx)"
    project.edit("untyped.py", right, wrong)

    (report,) = set(daemon.check()) - set(expected_reports())
    assert (report.file, report.code) == ("untyped.py", "d9d-untyped-handler")

    project.edit("untyped.py", wrong, right)
    assert daemon.check() == expected_reports()


def test_a_daemon_starts_from_a_cache(project: Project) -> None:
    """What another daemon, or mypy itself, has left."""
    assert project.check("--cache-fine-grained") == expected_reports()
    daemon = Daemon(project)
    try:
        assert daemon.check() == expected_reports()
        project.append("EDITED = True", "own_events.py")
        assert daemon.check() == expected_reports()
    finally:
        daemon.kill()


def test_a_daemon_heeds_an_edited_body_of_a_base_class(copy: Copier) -> None:
    """The daemon itself looks for changes of attributes and their types alone."""
    project = copy("chain_base.py", "chain_middle.py", "chain.py")
    daemon = Daemon(project)
    try:
        assert not daemon.check()
        project.edit("chain_base.py", "subscribe_annotated(ctx.event_bus, self)", "pass")
        assert [each.code for each in daemon.check()] == ["d9d-unregistered"]
        project.edit("chain_base.py", "        pass", "        subscribe_annotated(ctx.event_bus, self)")
        assert not daemon.check()
    finally:
        daemon.kill()


def oldest() -> str:
    """Return the requirement of the oldest mypy that the plugin works with."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = declared["project"]["optional-dependencies"]["mypy"]
    return str(requirement).replace(">=", "==")


@pytest.mark.slow
@pytest.mark.parametrize(
    "requirements", [(oldest(),), ("mypy",), ("mypy", "--no-binary=mypy")], ids=["oldest", "newest", "not compiled"]
)
def test_with_another_mypy(project: Project, tmp_path: Path, requirements: tuple[str, ...]) -> None:
    """In an environment of its own, without torch and pydantic: cold, warm, after an edit, and by a daemon."""
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
