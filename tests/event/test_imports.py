"""What an import costs: the Event Bus and the tools around it load neither torch nor the compiler's dependencies."""

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
def test_the_event_bus_needs_the_standard_library_alone(module: str) -> None:
    """Whoever defines events or handlers waits for no framework."""
    assert packages(loaded_by(module)) == {"d9d"}


def test_the_mypy_plugin_loads_nothing_that_it_checks() -> None:
    """Type checking starts at once, and works where torch is not installed."""
    loaded = loaded_by("d9d.mypy.dispatch")

    assert not packages(loaded) & {"torch", "numpy", "jinja2", "yaml", "pydantic", "d9d_codegen"}
    assert {name for name in loaded if name.startswith("d9d.") and not name.startswith("d9d.mypy")} == set()


def test_the_entry_of_the_mypy_plugin_loads_nothing() -> None:
    """All that changes stays out of the one file that mypy hashes."""
    assert {name for name in loaded_by("d9d.mypy") if name.startswith("d9d")} == {"d9d", "d9d.mypy"}


def test_the_compiler_loads_neither_torch_nor_the_framework() -> None:
    """A catalogue can be compiled before anything else of the project is installed."""
    assert not packages(loaded_by("d9d_codegen")) & {"torch", "numpy", "pydantic", "d9d"}
