"""`init`: the catalogue that a project begins with."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from .workspace import Workspace

PROJECT = '[project]\nname = "My-Shop"\n'


def test_a_starter_compiles_as_it_is(empty: Workspace) -> None:
    """What `init` writes is named in the project, and can be generated and checked at once."""
    empty.write(PROJECT, "pyproject.toml")
    assert empty.run("init") == (
        0,
        "wrote catalogue.yaml; edit it, then run `d9d-catalogue generate`\nadded [tool.d9d] to pyproject.toml\n",
    )
    settings = tomllib.loads(empty.read("pyproject.toml"))
    assert settings["project"] == {"name": "My-Shop"}
    assert settings["tool"]["d9d"] == {"catalogues": ["catalogue.yaml"], "docs": "docs/events"}
    assert empty.run("generate") == (0, "wrote 5 of 5 files\n")
    assert empty.run("check")[0] == 0
    assert "EVENT_MY_SHOP_ITEM_PRE" in empty.read("my_shop/events/my_shop.py")


def test_a_catalogue_is_never_overwritten(small: Workspace) -> None:
    """Where there is a catalogue already, `init` changes nothing."""
    before = small.files()
    status, output = small.run("init")
    assert status == 1
    assert output == (
        "catalogue.yaml: error[not-started]: the file already exists\n"
        "   edit it, or name another file with --catalogue PATH\n"
    )
    assert small.files() == before


@pytest.mark.parametrize("settings", [None, '[tool.d9d]\ndocs = "pages"\n'])
def test_settings_that_there_are_stay_as_they_are(empty: Workspace, settings: str | None) -> None:
    """Without a `pyproject.toml`, or with a table in it, `init` prints what to add."""
    if settings is not None:
        empty.write(settings, "pyproject.toml")
    status, output = empty.run("init")
    assert status == 0
    assert 'add this to pyproject.toml:\n\n[tool.d9d]\ncatalogues = ["catalogue.yaml"]\n' in output
    assert (empty.root / "pyproject.toml").exists() is (settings is not None)
    assert settings is None or empty.read("pyproject.toml") == settings


@pytest.mark.parametrize("name", ["train", "class", "42", "..."])
def test_a_project_whose_name_cannot_be_that_of_a_module_gets_another(empty: Workspace, name: str) -> None:
    """Neither a namespace of d9d nor a keyword is proposed."""
    empty.write(f'[project]\nname = "{name}"\n', "pyproject.toml")
    empty.run("init")
    assert empty.run("lint") == (0, "3 events, no errors\n")
    assert "package: project.events" in empty.read("catalogue.yaml")


def test_a_starter_can_lie_in_another_folder(empty: Workspace) -> None:
    """`--catalogue PATH` names the file; the package gets the name of the folder where there is no other."""
    assert empty.run("init", "--catalogue", "meter/events.yaml")[0] == 0
    assert "package: meter.events" in empty.read("meter/events.yaml")
    assert empty.run("lint", "--catalogue", "meter/events.yaml")[0] == 0


def test_a_starter_with_a_quote_in_its_name_is_named_as_it_is(empty: Workspace) -> None:
    """The name is written into `pyproject.toml` as TOML writes it."""
    empty.write(PROJECT, "pyproject.toml")
    empty.run("init", "--catalogue", 'the "shop".yaml')
    assert tomllib.loads(empty.read("pyproject.toml"))["tool"]["d9d"]["catalogues"] == ['the "shop".yaml']
    assert empty.run("generate") == (0, "wrote 5 of 5 files\n")


def test_a_project_that_cannot_be_written_is_reported_what_to_write(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue is there all the same, and what to add is said."""
    empty.write(PROJECT, "pyproject.toml")
    really = Path.open

    def refuse(path: Path, mode: str = "r", **given: Any) -> Any:
        if mode == "a":
            raise PermissionError(13, "Permission denied")
        return really(path, mode, **given)

    monkeypatch.setattr(Path, "open", refuse)
    status, output = empty.run("init")
    assert status == 0
    assert "pyproject.toml cannot be written (Permission denied); add this to it:\n\n[tool.d9d]\n" in output
    assert empty.read("pyproject.toml") == PROJECT
