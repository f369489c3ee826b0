"""Which catalogue owns a namespace: those of d9d, of installed projects, and of the checked project."""

import json
from pathlib import Path

import pytest

from d9d.mypy.checks import event_id
from d9d_check.catalogues import read_catalogues
from d9d_codegen.rules import names


def write(path: Path, text: str) -> None:
    """Write a file, and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_package(root: Path, package: str, module: str) -> None:
    """Write the index of a catalogue with one module."""
    index = {"package": package, "modules": {module: {}}, "events": {}}
    write(root.joinpath(*package.split("."), "index.json"), json.dumps(index))


def test_the_checker_and_the_compiler_accept_the_same_ids() -> None:
    """Both contain the pattern, because neither may import the other."""
    assert event_id.ID.pattern == names.ID.pattern


def test_d9d_owns_the_namespaces_of_its_loops() -> None:
    """Without a project, and with no other installed catalogue."""
    assert read_catalogues(None).owners == dict.fromkeys(("common", "train", "inference"), "d9d.loop.event.catalogue")


def test_an_installed_catalogue_owns_its_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found through the entry points of its distribution, and is not imported."""
    write_package(tmp_path, "shop.events", "shop")
    entries = "[d9d.catalogues]\nall = shop.events\ngone = gone.events\n\n[console_scripts]\nshop = shop.main:main\n"
    write(tmp_path / "shop-1.0.dist-info" / "entry_points.txt", entries)
    monkeypatch.syspath_prepend(tmp_path)

    assert read_catalogues(None).owners["shop"] == "shop.events"
    assert set(read_catalogues(None).owners.values()) == {"shop.events", "d9d.loop.event.catalogue"}


@pytest.mark.parametrize("folder", ["", "src"])
@pytest.mark.parametrize("line", ["package: shop.events", 'package:  "shop.events"  # ours', "package: 'shop.events'"])
def test_the_catalogues_of_the_project_own_their_namespaces(tmp_path: Path, folder: str, line: str) -> None:
    """Their packages are in the root of the project or in its `src`."""
    write(tmp_path / "pyproject.toml", '[tool.d9d]\ncatalogues = ["events.yaml", "missing.yaml"]\n')
    write(tmp_path / "events.yaml", f"# The shop's.\nversion: 1\n{line}\nmodules: {{}}\n")
    write_package(tmp_path / folder, "shop.events", "shop")

    assert read_catalogues(tmp_path).owners["shop"] == "shop.events"


@pytest.mark.parametrize(
    "settings", ["", "[tool", "[tool.d9d]\ncatalogues = 1\n", "[tool.d9d]\ncatalogues = [1]\n", "tool = 1\n"]
)
def test_settings_that_name_no_catalogue_add_no_owner(tmp_path: Path, settings: str) -> None:
    """The catalogue compiler reports what is wrong with them."""
    write(tmp_path / "pyproject.toml", settings)

    assert read_catalogues(tmp_path).owners == read_catalogues(None).owners


@pytest.mark.parametrize("package", ["../outside", "/outside", "..", "outside/events", "outside-events", "a..b"])
def test_an_entry_point_names_a_package_and_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """What is no name of a package is ignored, and no folder outside is read."""
    index = json.dumps({"package": "outside", "modules": {"stolen": {}}, "events": {}})
    for folder in ("outside", "outside/events", "outside-events", "site", "a/b", "."):
        write(tmp_path / folder / "index.json", index)
    write(tmp_path / "site" / "evil-1.0.dist-info" / "entry_points.txt", f"[d9d.catalogues]\nall = {package}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path)

    assert "stolen" not in read_catalogues(None).owners


def test_deeply_nested_settings_name_no_catalogue(tmp_path: Path) -> None:
    """The reader of TOML gives up on them; mypy itself continues."""
    write(tmp_path / "pyproject.toml", f"deep = {'[' * 100_000}\n[tool.d9d]\ncatalogues = []\n")

    assert read_catalogues(tmp_path).owners == read_catalogues(None).owners
