"""Importing the Event Bus or its tools loads neither torch nor the dependencies of the compiler."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(module: str) -> set[str]:
    """Return the modules that an import loads in a fresh interpreter."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def packages(modules: set[str]) -> set[str]:
    """Return the top-level packages of modules, without the standard library."""
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


@pytest.mark.parametrize("module", ["d9d", "d9d.loop", "d9d.loop.event"])
def test_the_event_bus_needs_only_the_standard_library(module: str) -> None:
    """Defining events and handlers does not need torch."""
    assert packages(loaded_by(module)) == {"d9d"}


def test_the_mypy_plugin_loads_nothing_that_it_checks() -> None:
    """Type checking works without torch."""
    loaded = loaded_by("d9d.mypy.dispatch")

    assert not packages(loaded) & {"torch", "numpy", "jinja2", "yaml", "pydantic", "d9d_codegen"}
    assert {name for name in loaded if name.startswith("d9d.") and not name.startswith("d9d.mypy")} == set()


def test_the_entry_of_the_mypy_plugin_loads_nothing() -> None:
    """That file is hashed by mypy, so it should not change."""
    assert {name for name in loaded_by("d9d.mypy") if name.startswith("d9d")} == {"d9d", "d9d.mypy"}


def test_the_compiler_loads_neither_torch_nor_the_framework() -> None:
    """A catalogue can be compiled without them."""
    assert not packages(loaded_by("d9d_codegen")) & {"torch", "numpy", "pydantic", "d9d"}
