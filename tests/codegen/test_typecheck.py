"""`types`: mypy's errors in generated modules are reported at the lines of the catalogue that caused them."""

import sys
from pathlib import Path

import pytest

from .workspace import PYPROJECT, SMALL, Workspace

# None of these modules needs the types of torch, which mypy takes long to read, and reaches through d9d itself.
FAST = f"""
[tool.mypy]
mypy_path = "{Path(__file__).parents[2]}"
no_site_packages = true
"""
SILENT = """
[[tool.mypy.overrides]]
module = "d9d.*"
ignore_errors = true
"""
STRICT = PYPROJECT + FAST + "strict = true\n" + SILENT
WRONG = SMALL.replace(
    "          step: {type: int, doc: The step's index.}\n",
    "          step: {type: os.getcwd, doc: A function.}\n"
    "          default: {type: int, doc: A text., default: \"'one'\"}\n"
    "          items:\n"
    "            type: dict[str, collections.abc.Sequence] | None\n"
    "            doc: Of what?\n",
)


def test_right_modules_please_mypy(small: Workspace) -> None:
    """`types` exits with 0 where mypy finds nothing."""
    small.write(STRICT, "pyproject.toml")
    small.run("generate")
    assert small.run("types") == (0, "mypy reports no errors in 2 modules\n")


def test_errors_are_reported_at_the_lines_of_the_catalogue(small: Workspace) -> None:
    """A function in the place of a type, a default of another type and a bare generic stand at their keys."""
    small.write(STRICT, "pyproject.toml")
    small.write(WRONG)
    small.run("generate")
    status, output = small.run("types")
    assert status == 1
    heads = [line.partition("]: ") for line in output.splitlines() if ": error[" in line]
    assert [head for head, _, _ in heads] == [
        "catalogue.yaml:10:24: error[mypy-valid-type",
        "catalogue.yaml:11:27: error[mypy-assignment",
        "catalogue.yaml:13:19: error[mypy-type-arg",
    ]
    assert 'Function "os.getcwd" is not valid as a type' in heads[0][2]
    assert "   reported by mypy at shop/events/common.py:" in output


def test_an_error_of_an_import_is_reported_where_the_type_is_mentioned(small: Workspace) -> None:
    """An import comes from the first field or event that names what it imports."""
    small.write(STRICT, "pyproject.toml")
    small.write("class Coin: ...\n\n\nglobals()['Money'] = Coin\n", "till.py")
    small.write(SMALL.replace("type: int", 'type: "list[till.Money]"'))
    small.run("generate")
    status, output = small.run("types")
    assert status == 1
    assert output.startswith('catalogue.yaml:10:30: error[mypy-attr-defined]: Module "till" has no attribute "Money"')


def test_stale_modules_are_not_checked(small: Workspace) -> None:
    """Errors have positions only if the modules are up to date."""
    small.run("generate")
    small.write(WRONG)
    status, output = small.run("types")
    assert status == 1
    assert "error[stale]" in output
    assert "mypy" not in output


def test_a_missing_mypy_is_reported_plainly(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mypy is not installed, the diagnostic says how to install it."""
    small.run("generate")
    bare = small.write(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n', "python")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    status, output = small.run("types")
    assert status == 1
    assert output == (
        "catalogue.yaml: error[no-mypy]: the types cannot be checked: mypy is not installed\n"
        "   install mypy in the compiler's environment: pip install mypy\n"
    )


def test_a_mypy_that_cannot_run_is_reported_with_its_own_words(small: Workspace) -> None:
    """A setting that mypy refuses is a diagnostic, not a success."""
    small.run("generate")
    small.write(PYPROJECT + '\n[tool.mypy]\nplugins = ["no.such.plugin"]\n', "pyproject.toml")
    status, output = small.run("types")
    assert status == 1
    assert output.startswith("catalogue.yaml: error[no-mypy]: mypy stopped before it finished\n")
    assert "no.such.plugin" in output


def test_the_search_path_of_the_user_is_kept(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `MYPYPATH` names is found by mypy as before."""
    small.write(STRICT, "pyproject.toml")
    small.write("class Money: ...\n", "elsewhere/till.py")
    small.write(SMALL.replace("type: int", "type: till.Money"))
    monkeypatch.syspath_prepend(small.root / "elsewhere")
    monkeypatch.setenv("MYPYPATH", str(small.root / "elsewhere"))
    small.run("generate")
    assert small.run("types")[0] == 0


def test_an_error_of_a_deprecated_field_is_reported_at_its_type(small: Workspace) -> None:
    """The property that stands for it comes from the field, not from its context."""
    small.write(STRICT, "pyproject.toml")
    step = "          step: {type: dict, doc: The step's index.}\n"
    alias = '          count: {type: dict, doc: Of old., deprecated: {since: "1", replaced_by: step}}\n'
    small.write(SMALL.replace("          step: {type: int, doc: The step's index.}\n", step + alias))
    small.run("generate")
    _, output = small.run("types")
    assert [line.partition("]")[0] for line in output.splitlines() if ": error[" in line] == [
        "catalogue.yaml:10:24: error[mypy-type-arg",
        "catalogue.yaml:11:25: error[mypy-type-arg",
    ]
