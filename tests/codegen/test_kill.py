"""A run that is killed, at whatever moment, leaves a tree that the next run makes good."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d9d_codegen.cli import main

from .workspace import PYPROJECT, SMALL, TWO_LOOPS, Workspace


def killed_run(num_changes: int) -> int:
    """Run `generate` in a child that is killed when it is about to change a file once more than so many times.

    It has no chance to clean up, and a text is half written by then.

    Returns:
        The exit status of the child, or the negative number of the signal that ended it.
    """
    child = os.fork()
    if not child:
        num_left = iter(range(num_changes))

        def dying(method: Callable[..., Any]) -> Callable[..., Any]:
            def change(path: Path, *arguments: Any, **keywords: Any) -> Any:
                if next(num_left, None) is None:
                    if arguments and isinstance(arguments[0], bytes):
                        method(path, arguments[0][: len(arguments[0]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return method(path, *arguments, **keywords)

            return change

        status = 1
        try:
            for name in ("write_bytes", "replace", "unlink"):
                setattr(Path, name, dying(getattr(Path, name)))
            with contextlib.redirect_stdout(io.StringIO()):
                status = main(["generate"])
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


KILLED = -9


def expected(small: Workspace, catalogue: str, settings: str) -> dict[str, bytes]:
    """Return the files of a run that nothing disturbs, and clear them away."""
    small.write(catalogue)
    small.write(settings, "pyproject.toml")
    assert small.run("generate")[0] == 0
    files = small.files()
    for path in files:
        (small.root / path).unlink()
    return files


def put(small: Workspace, files: dict[str, bytes]) -> None:
    """Write files, and the folders that they need."""
    for path, content in files.items():
        (small.root / path).parent.mkdir(parents=True, exist_ok=True)
        (small.root / path).write_bytes(content)


@pytest.mark.parametrize(
    ("settings", "num_changes"), [(PYPROJECT, 14), ("", 11)], ids=["a module goes", "a module and all pages go"]
)
def test_the_next_run_makes_good_what_a_killed_one_left(small: Workspace, settings: str, num_changes: int) -> None:
    """Killed by SIGKILL before each single change, half of a text written: the next run gets the very same tree."""
    after = expected(small, SMALL.replace("when the door", "once the door"), settings)
    before = expected(small, TWO_LOOPS, PYPROJECT)
    num_killed = 0
    while True:
        for path in small.files():
            (small.root / path).unlink()
        put(small, {**before, "catalogue.yaml": after["catalogue.yaml"]})
        small.write(settings, "pyproject.toml")
        status = killed_run(num_killed)
        if status != KILLED:
            break
        num_killed += 1
        assert small.run("check")[0] == 1
        assert small.run("generate")[0] == 0
        assert small.files() == after
    assert (status, num_killed) == (0, num_changes)


def test_a_run_that_is_killed_from_outside_is_made_good_as_well(small: Workspace) -> None:
    """Killed by SIGKILL after some milliseconds, wherever that finds it."""
    after = expected(small, SMALL, PYPROJECT)
    before = expected(small, TWO_LOOPS, PYPROJECT)
    for delay in (0.0, 0.05, 0.1, 0.15, 0.2):
        put(small, {**before, "catalogue.yaml": after["catalogue.yaml"]})
        with subprocess.Popen([sys.executable, "-m", "d9d_codegen", "generate"], stdout=subprocess.PIPE) as run:
            time.sleep(delay)
            run.kill()
        assert small.run("generate")[0] == 0
        assert small.files() == after
