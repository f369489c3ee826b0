"""A run that is killed, at whatever moment, leaves a tree that the next run makes good."""

import subprocess
import sys
import time

import pytest

from .workspace import PYPROJECT, SMALL, TWO_LOOPS, Workspace

# Kills itself, with no chance to clean up, when it is about to change a file for the n-th time; a write is cut in half.
KILLED_RUN = """
import os, pathlib, signal, sys
num_left = int(sys.argv[1])

def dying(method):
    def change(path, *arguments, **keywords):
        global num_left
        num_left -= 1
        if num_left < 0:
            if arguments and isinstance(arguments[0], bytes):
                method(path, arguments[0][: len(arguments[0]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return method(path, *arguments, **keywords)
    return change

for name in ("write_bytes", "replace", "unlink"):
    setattr(pathlib.Path, name, dying(getattr(pathlib.Path, name)))
from d9d_codegen.cli import main
sys.exit(main(["generate"]))
"""
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
        run = subprocess.run([sys.executable, "-c", KILLED_RUN, str(num_killed)], capture_output=True, check=False)
        if run.returncode != KILLED:
            break
        num_killed += 1
        assert small.run("check")[0] == 1
        assert small.run("generate")[0] == 0
        assert small.files() == after
    assert (run.returncode, num_killed) == (0, num_changes)


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
