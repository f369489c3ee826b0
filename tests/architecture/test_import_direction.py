"""Imports go one way, so that each part can be understood, and loaded, without those above it."""

import ast
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the bottom to the top; parts of one layer know nothing of each other.
LAYERS = [
    {"d9d.core"},
    {"d9d.loop.event"},
    {"d9d.loop.config", "d9d.loop.control"},
    {"d9d.loop.component"},
    {"d9d.loop.run"},
    {"d9d.__main__", "d9d.testing"},
]
# Modules that come with later Pythons than the one that runs the tests.
NEW_IN_THE_STANDARD_LIBRARY = {"annotationlib"}
# Every type checker includes its own stub of it; at run time it is not imported.
READ_BY_TYPE_CHECKERS_ALONE = {"typing_extensions"}


def module_of(path: Path, source: Path) -> str:
    """Return the dotted name of the module in a file."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Return the names of all that a file imports, wherever in it, and of the modules that have it."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            imported.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return imported


def modules_below(source: Path, package: str) -> dict[str, set[str]]:
    """Return all modules of a package, each with what it imports."""
    folder = source.joinpath(*package.split("."))
    return {module_of(path, source): imports_of(path) for path in sorted(folder.rglob("*.py"))}


def names_of(module: str, modules: dict[str, set[str]]) -> set[str]:
    """Return the modules of the same package that a module imports; `from package import module` is not the package."""
    imported = modules[module] & modules.keys()
    return {name for name in imported if not any(other.rpartition(".")[0] == name for other in imported)}


D9D = modules_below(ROOT, "d9d")
CODEGEN = modules_below(ROOT / "codegen", "d9d_codegen")
CHECK = modules_below(ROOT / "codegen", "d9d_check")


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> tuple[int, str] | None:
    """Return the number and the name of the part of the loops that a module belongs to."""
    return next(
        ((number, part) for number, parts in enumerate(LAYERS) for part in parts if is_within(module, part)), None
    )


def component_of(module: str) -> str | None:
    """Return the part of `d9d.loop.component` that a module belongs to: a module in it, or a folder."""
    parts = module.split(".")
    return ".".join(parts[:4]) if parts[:3] == ["d9d", "loop", "component"] and len(parts) > 3 else None


def circle_in(needed: Mapping[str, AbstractSet[str]]) -> dict[str, set[str]]:
    """Return what is left of a graph of imports when all that needs nothing else is taken away, again and again."""
    rest = {name: {other for other in others if other != name} for name, others in needed.items()}
    while leaves := {name for name, others in rest.items() if not others}:
        rest = {name: others - leaves for name, others in rest.items() if name not in leaves}
    return rest


def third_party(imported: set[str]) -> set[str]:
    """Return the packages among imports that do not come with Python."""
    known = sys.stdlib_module_names | NEW_IN_THE_STANDARD_LIBRARY | READ_BY_TYPE_CHECKERS_ALONE
    return {name.partition(".")[0] for name in imported} - known


def test_each_module_of_the_loops_belongs_to_a_layer() -> None:
    """A new part says first where it stands."""
    outside = {module for module in D9D if layer_of(module) is None and not is_within(module, "d9d.mypy")}

    assert outside == {"d9d", "d9d.loop"}


@pytest.mark.parametrize("module", [module for module in D9D if layer_of(module)])
def test_a_module_imports_only_from_below_and_from_its_own_part(module: str) -> None:
    """core, event, config and control, component, run."""
    layer = layer_of(module)
    assert layer is not None
    for imported in D9D[module]:
        below = layer_of(imported)
        assert below is None or below[0] < layer[0] or below == layer, f"{module} imports {imported}"


def test_folders_inside_component_make_no_circle() -> None:
    """What lies in a folder counts as one part, so that a folder and the modules around it form layers too."""
    parts = {module: part for module in D9D if (part := component_of(module)) is not None}
    needed: dict[str, set[str]] = {part: set() for part in parts.values()}
    for module, part in parts.items():
        needed[part] |= {parts[name] for name in names_of(module, D9D) if name in parts}

    assert len(needed) > 10
    assert circle_in(needed) == {}


def test_the_loops_and_the_compiler_do_not_know_each_other() -> None:
    """They meet in the files that the compiler writes."""
    assert {module for module, imported in D9D.items() if any(is_within(name, "d9d_codegen") for name in imported)} == (
        set()
    )
    assert {module for module, imported in CODEGEN.items() if any(is_within(name, "d9d") for name in imported)} == set()


@pytest.mark.parametrize("modules", [D9D, CODEGEN, CHECK], ids=["d9d", "d9d_codegen", "d9d_check"])
def test_imports_make_no_circle(modules: dict[str, set[str]]) -> None:
    """Imports for type checkers alone count as well."""
    assert circle_in({module: names_of(module, modules) for module in modules}) == {}


def test_the_compiler_needs_two_packages() -> None:
    """Those of its extra. Source is followed by the checker, which needs none."""
    assert third_party(set().union(*CODEGEN.values())) == {"d9d_codegen", "d9d_check", "jinja2", "yaml"}
    followed = {module for module, names in CODEGEN.items() if any(is_within(name, "d9d_check") for name in names)}
    assert all(is_within(module, "d9d_codegen.coverage") for module in followed)


def test_the_checker_needs_the_standard_library_alone() -> None:
    """It reads programs and imports none of them, so it starts quickly and works next to every type checker."""
    assert third_party(set().union(*CHECK.values())) == {"d9d_check"}


def test_the_mypy_plugin_imports_only_mypy_the_engine_and_itself() -> None:
    """It reads the index of the catalogue, not the code that it checks."""
    plugin = {module: imported for module, imported in D9D.items() if is_within(module, "d9d.mypy")}
    imported = set().union(*plugin.values())

    assert third_party(imported) == {"d9d", "d9d_check", "mypy"}
    assert {name for name in imported if is_within(name, "d9d") and not is_within(name, "d9d.mypy")} == set()


def test_the_loops_need_four_packages() -> None:
    """Those that the runtime depends on, in two modules those of an extra, and in the one for users' tests pytest."""
    extra, testing, options = "d9d.loop.component.iterable_data", "d9d.testing", "d9d.core.command_line"
    others = {extra, testing, options, "d9d.__main__"}  # the command runs the checker, too
    loops = [imported for module, imported in D9D.items() if not is_within(module, "d9d.mypy") and module not in others]

    assert third_party(D9D[testing]) == {"d9d", "pytest", "torch"}
    assert third_party(D9D[extra]) == {"d9d", "torch", "torchdata"}
    assert third_party(D9D[options]) == {"d9d", "pydantic", "pydantic_settings", "yaml"}
    assert third_party(set().union(*loops)) == {"d9d", "torch", "tqdm", "pydantic", "pydantic_core", "safetensors"}


@pytest.mark.parametrize("module", ["d9d.loop.event", "d9d.loop.event.bus", "d9d.loop.event.subscription"])
def test_the_event_bus_needs_the_standard_library_alone(module: str) -> None:
    """Defining events and handlers needs no further package."""
    assert third_party(D9D[module]) <= {"d9d"}
    assert {name for name in D9D[module] if is_within(name, "d9d") and not is_within(name, "d9d.loop.event")} == set()


@pytest.mark.parametrize("module", ["d9d.core.seed", "d9d.core.stepper"])
def test_steps_and_seeds_need_the_standard_library_alone(module: str) -> None:
    """They are what contexts and compilers of other projects may want, too."""
    assert third_party(D9D[module]) == set()
