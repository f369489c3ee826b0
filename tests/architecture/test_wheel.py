"""The wheel holds what users need, and asks for no more than they need."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

import d9d

ROOT = Path(__file__).parents[2]
SEARCHED = ("d9d", "codegen", "docs", "examples", "tests", "benchmarks", ".github")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built as a release builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


def names_in(wheel: zipfile.ZipFile) -> set[str]:
    """Return the names of all files, without those about the wheel itself."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    """Read what the wheel says of itself."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def requirements_of(wheel: zipfile.ZipFile, extra: str | None) -> set[str]:
    """Return the names of the packages that the wheel asks for, always or for an extra."""
    marker = "" if extra is None else f"extra == '{extra}'"
    found = (str(line).partition("; ") for line in metadata_of(wheel).get_all("Requires-Dist", []))
    return {re.split("[<>=[]", requirement)[0] for requirement, _, condition in found if condition == marker}


def test_the_wheel_ships_the_loops_the_checker_and_the_compiler(wheel: zipfile.ZipFile) -> None:
    """And no package called `codegen`, nor tests, nor examples."""
    assert {PurePosixPath(name).parts[0] for name in names_in(wheel)} == {"d9d", "d9d_check", "d9d_codegen"}


def test_the_wheel_ships_every_file_of_its_packages(wheel: zipfile.ZipFile) -> None:
    """Python, templates, the index, and the marker of typed packages."""
    codegen = ROOT / "codegen"
    folders = {ROOT / "d9d": ROOT, codegen / "d9d_check": codegen, codegen / "d9d_codegen": codegen}
    expected = {
        path.relative_to(source).as_posix()
        for folder, source in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert names_in(wheel) == expected


@pytest.mark.parametrize(
    "name",
    [
        "d9d/py.typed",
        "d9d/__init__.pyi",
        "d9d/loop/event/catalogue/index.json",
        "d9d/mypy/__init__.py",
        "d9d_check/__main__.py",
        "d9d_codegen/__main__.py",
        "d9d_codegen/templates/module.py.jinja",
        "d9d_codegen/templates/page.md.jinja",
    ],
)
def test_the_wheel_ships_what_is_easily_forgotten(wheel: zipfile.ZipFile, name: str) -> None:
    """What is no Python, and what is run."""
    assert name in names_in(wheel)


def test_running_d9d_takes_five_packages(wheel: zipfile.ZipFile) -> None:
    """Everything else is an extra."""
    assert requirements_of(wheel, None) == {"torch", "numpy", "tqdm", "pydantic", "safetensors"}


@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        ("codegen", {"jinja2", "pyyaml"}),
        ("mypy", {"mypy"}),
        ("config", {"pydantic-settings", "pyyaml"}),
        ("torchdata", {"torchdata"}),
    ],
)
def test_extras_bring_their_own(wheel: zipfile.ZipFile, extra: str, packages: set[str]) -> None:
    """The compiler, the plugin and iterable data are asked for by name."""
    assert requirements_of(wheel, extra) == packages


def test_the_wheel_has_a_name_and_a_version_of_its_own(wheel: zipfile.ZipFile) -> None:
    """On the package index, `d9d` is another project; the version is that which `import d9d` shows."""
    metadata = metadata_of(wheel)

    assert metadata["Name"] == "d9d-hooks"
    assert metadata["Version"] == d9d.__version__


@pytest.mark.parametrize("bounded", ["torch", "mypy"])
def test_packages_whose_internals_are_used_have_an_upper_bound(wheel: zipfile.ZipFile, bounded: str) -> None:
    """A new minor version is tested before it can be installed."""
    requirements = [str(line) for line in metadata_of(wheel).get_all("Requires-Dist", [])]

    assert [line for line in requirements if re.match(rf"{bounded}(?=[<>=])[^;]*<\d", line)]


def test_each_package_that_users_install_is_in_the_matrix_and_the_readme(wheel: zipfile.ZipFile) -> None:
    """Its oldest and its newest version are tested; the README names what d9d itself needs."""
    extras = [None, "codegen", "config", "mypy", "tensorboard", "torchdata"]
    needed = {name for extra in extras for name in requirements_of(wheel, extra)}
    jobs = subprocess.run([sys.executable, ".ci/matrix.py", "--list"], cwd=ROOT, check=True, capture_output=True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert {name for name in needed if len(re.findall(rf"\b{name}[<>=]", jobs.stdout.decode())) != 2} == set()
    assert {name for name in requirements_of(wheel, None) if name not in readme.lower()} == set()


def test_each_text_that_says_what_to_install_names_what_there_is(wheel: zipfile.ZipFile) -> None:
    """`pip install` of d9d names the distribution, and extras that it has; of others, packages that it depends on."""
    metadata = metadata_of(wheel)
    extras = set(metadata.get_all("Provides-Extra", []))
    own = metadata["Name"]
    known = {own, *requirements_of(wheel, None), *(name for extra in extras for name in requirements_of(wheel, extra))}
    found = list(texts_about_installing())

    assert len({path for path, _, _ in found}) > 5
    for path, package, asked in found:
        assert package in known, f"{path} says to install {package}"
        assert asked <= (extras if package == own else set()), f"{path} asks for {package}[{','.join(asked)}]"


def texts_about_installing() -> Iterator[tuple[Path, str, set[str]]]:
    """Yield each file that says to install a package with pip, the name of that package, and the extras asked for."""
    command = re.compile(r"pip install ((?:-\S+ |constraints\.txt )*)(?:\\?[\"'])?([\w.-]+)(?:\\?\[([\w,-]+)\\?\])?")
    paths = [path for folder in SEARCHED for path in sorted((ROOT / folder).rglob("*"))]
    for path in [*paths, *ROOT.glob("*.md"), ROOT / ".pre-commit-hooks.yaml"]:
        if path.suffix not in {".py", ".md", ".yaml", ".yml", ".toml", ".jinja"} or path == Path(__file__):
            continue
        for _, package, extras in command.findall(path.read_text(encoding="utf-8")):
            yield path, "d9d-hooks" if package == "." else package, set(filter(None, extras.split(",")))


def test_the_wheel_names_its_pythons_its_license_and_its_commands(wheel: zipfile.ZipFile) -> None:
    """From 3.11 to 3.14, Apache-2.0, `d9d` and `d9d-catalogue`."""
    metadata = metadata_of(wheel)
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert metadata["Requires-Python"] == "<3.15,>=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "d9d = d9d.__main__:main" in wheel.read(entry_points).decode()
    assert "d9d-catalogue = d9d_codegen.__main__:main" in wheel.read(entry_points).decode()
