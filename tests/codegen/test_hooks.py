"""The hook for pre-commit runs a command that there is, in the way that pre-commit wants it said."""

import shlex
from pathlib import Path

import yaml

from d9d_codegen.cli import COMMANDS

from .workspace import Workspace

HOOKS = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"


def test_the_hook_runs_check_on_all_catalogues_of_the_project(small: Workspace) -> None:
    """`d9d-catalogue-check` fails while a generated file is stale, whichever file was committed."""
    hooks = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    [hook] = [each for each in hooks if each["id"].startswith("d9d-catalogue")]
    assert {"id", "name", "entry", "language"} <= hook.keys()
    assert (hook["id"], hook["pass_filenames"]) == ("d9d-catalogue-check", False)
    program, command = shlex.split(hook["entry"])  # without --import, which runs code of the checkout
    assert (program, command in COMMANDS) == ("d9d-catalogue", True)
    assert small.run(command)[0] == 1
    small.run("generate")
    assert small.run(command)[0] == 0
