"""Files that are broken, hostile or stale: each is an error with a remedy or a note, never a traceback or a hang."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d9d_check.check import check
from d9d_check.cli import main
from d9d_check.report import Diagnostic

ROOT = Path(__file__).parents[2]
_HANDLER = """
from d9d.loop.control import TrainTask
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
class Task(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx): ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a catalogue, of which nothing is wrong."""
    (tmp_path / "pyproject.toml").write_text('[tool.d9d]\ncatalogues = ["events.yaml"]\n')
    (tmp_path / "events.yaml").write_text(
        "package: lab.events\nmodules:\n  lab:\n    events:\n      EVENT_LAB_SAVED:\n"
    )
    folder = tmp_path / "lab" / "events"
    folder.mkdir(parents=True)
    (folder / "lab.py").write_text("EVENT_LAB_SAVED: Final = Event[int](id='lab.saved')\n")
    event = {"id": "lab.saved", "module": "lab", "context": "builtins.int"}
    (folder / "index.json").write_text(json.dumps({"version": 1, "events": {"lab.events.lab.EVENT_LAB_SAVED": event}}))
    return tmp_path


def problems(path: Path) -> list[Diagnostic]:
    return [each for each in check([path], use_cache=False).diagnostics if each.code == "d9d-index"]


def test_a_project_without_a_mistake_is_not_reported(project: Path) -> None:
    """So what the other tests change is what they are about."""
    assert problems(project) == []


def _remove_index(project: Path) -> None:
    (project / "lab" / "events" / "index.json").unlink()


def _newer_format(project: Path) -> None:
    (project / "lab" / "events" / "index.json").write_text('{"version": 99, "events": {}}')


def _folder_as_index(project: Path) -> None:
    _remove_index(project)
    (project / "lab" / "events" / "index.json").mkdir()


def _pipe_as_index(project: Path) -> None:
    _remove_index(project)
    os.mkfifo(project / "lab" / "events" / "index.json")


def _older_than_catalogue(project: Path) -> None:
    with (project / "events.yaml").open("a") as file:
        file.write("      EVENT_LAB_LOADED:\n")


def _older_than_module(project: Path) -> None:
    with (project / "lab" / "events" / "lab.py").open("a") as file:
        file.write("EVENT_LAB_LOADED: Final = Event[int](id='lab.loaded')\n")


def _newer_than_module(project: Path) -> None:
    (project / "lab" / "events" / "lab.py").write_text("# nothing\n")


def _no_package(project: Path) -> None:
    shutil.rmtree(project / "lab")


@pytest.mark.parametrize(
    "damage",
    [
        _remove_index,
        _newer_format,
        _folder_as_index,
        _pipe_as_index,
        _older_than_catalogue,
        _older_than_module,
        _newer_than_module,
        _no_package,
    ],
)
def test_an_index_that_cannot_be_used_is_an_error_with_the_command_that_mends_it(
    project: Path, damage: Callable[[Path], None]
) -> None:
    """What is not known about events cannot be checked in silence."""
    damage(project)

    (found,) = problems(project)

    assert found.severity == "error"
    assert "run d9d-catalogue generate" in found.message


@pytest.mark.parametrize(
    "index",
    [
        "[" * 100_000,
        '{"version": 1, "events": ' + '{"a":' * 100_000,
        "\0",
        '{"version": 1, "events": []}',
        '{"version": NaN, "events": {}}',
        '{"version": 1, "events": {}, "n": ' + "9" * 10_000 + "}",
        "null",
    ],
)
def test_an_index_that_is_none_is_an_error(project: Path, index: str) -> None:
    """However it is broken."""
    (project / "lab" / "events" / "index.json").write_text(index)

    assert len(problems(project)) == 1


@pytest.mark.parametrize("value", [None, 5, -1e308, float("nan"), "text", [], {}, [5], {"a": [{}]}, [[["a"]]]])
def test_an_index_with_wrong_types_is_read_without_a_fault(project: Path, value: Any) -> None:
    """Of any part."""
    event = "lab.events.lab.EVENT_LAB_SAVED"
    order = {"first": value, "followers": {"lab.saved": value}}
    module = {"phases": value, "lifecycle": order}
    fields = {"fields": {"n": value, "m": "list[" * 1000, "o": "a\0b"}, "device_fields": value}
    index = {
        "events": {event: {"id": value, "module": "lab", "context": "lab.events.lab.EventLabContext", "phase": value}},
        "contexts": {"lab.events.lab.EventLabContext": fields},
        "modules": {"lab": module, "other": {"lifecycle": value}},
        "aliases": {"lab.events.lab.EVENT_LAB_OLD": {"replaced_by": value}, "a": value},
    }
    (project / "lab" / "events" / "index.json").write_text(json.dumps(index))
    (project / "lab" / "events" / "lab.py").unlink()
    (project / "task.py").write_text(
        _HANDLER.replace("d9d.loop.event.catalogue.train", "lab.events.lab").replace("TRAIN_STEP_POST", "LAB_SAVED")
        + "    def late(self, ctx):\n        ctx.n, ctx.m, ctx.o\n"
    )

    assert [each for each in check([project], use_cache=False).diagnostics if "report it" in each.message] == []


@pytest.mark.parametrize(
    "settings",
    [
        b"[tool.d9d",
        b"\xff\xfe",
        b"n = " + b"9" * 10_000,
        b"n = " + b"[" * 50_000,
        b"tool = 5",
        b"[tool]\nd9d = 5",
        b'[tool.d9d]\ncatalogues = "events.yaml"',
        b"[tool.d9d]\ncatalogues = [5]",
        b'[tool.d9d]\ncatalogues = ["missing.yaml"]',
        b'[tool.d9d]\ncatalogues = ["."]',
        b'[tool.d9d]\nsources = ["missing"]',
        b'[tool.d9d]\nsources = "."',
        b'[tool.d9d]\nsources = ["a\\u0000b"]',
    ],
)
def test_settings_that_cannot_be_used_are_an_error(tmp_path: Path, settings: bytes) -> None:
    """They decide what is checked."""
    (tmp_path / "pyproject.toml").write_bytes(settings)

    assert len(problems(tmp_path)) == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_settings_that_are_no_file_are_an_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A folder, a pipe that would be read for ever, or a link to itself."""
    make(tmp_path / "pyproject.toml")

    assert len(problems(tmp_path)) == 1


def test_a_catalogue_that_names_no_package_is_an_error(project: Path) -> None:
    """Its index cannot be found."""
    (project / "events.yaml").write_text("modules: {}\n")

    (found,) = problems(project)

    assert "names no package" in found.message


@pytest.mark.parametrize("package", ["../lab", "/etc", "lab/events", "lab..events", "", "a." * 5_000 + "a", "."])
def test_an_entry_point_cannot_name_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, project: Path
) -> None:
    """Only the name of a package is looked up."""
    information = tmp_path / "site" / "lab-1.dist-info"
    information.mkdir(parents=True)
    (information / "entry_points.txt").write_text(f"[d9d.catalogues]\nlab = {package}\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])

    assert len(problems(project)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "def\n",
        "a\0b",
        "(" * 100_000 + ")" * 100_000,
        "-" * 100_000 + "1",
        "a" + ".b" * 100_000,
        "1 if x else " * 50_000 + "1",
        "if x: pass\n" + "elif x: pass\n" * 20_000,
    ],
)
def test_a_source_that_cannot_be_parsed_is_an_error(tmp_path: Path, text: str) -> None:
    """Without a traceback, and the other files are checked."""
    (tmp_path / "hostile.py").write_text(text)
    (tmp_path / "task.py").write_text(_HANDLER)

    found = check([tmp_path], use_cache=False).diagnostics

    assert [each.code for each in found] == ["d9d-syntax", "d9d-unregistered"]


def test_a_source_that_is_nested_deeply_is_checked_or_a_note(tmp_path: Path) -> None:
    """What cannot be followed counts as not verified; the rest of the program is checked."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "deep.py").write_text("x = a" + ".b" * 5_000)
    (tmp_path / "task.py").write_text(_HANDLER)

    for _ in range(2):  # the second time with a cache
        codes = [each.code for each in check([tmp_path]).diagnostics]

        assert set(codes) - {"d9d-unchecked"} == {"d9d-unregistered"}


def test_a_huge_file_is_a_note(tmp_path: Path) -> None:
    """It is data, and reading it would take minutes."""
    (tmp_path / "data.py").write_text("x = 1\n" * 1_000_000)

    (found,) = check([tmp_path], use_cache=False).diagnostics

    assert (found.code, found.line) == ("d9d-unchecked", 1)
    assert "so it is not checked" in found.message


def test_links_to_themselves_and_pipes_are_errors(tmp_path: Path) -> None:
    """As a file, and as a folder, which is not entered."""
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "task.py").write_text(_HANDLER)

    found = check([tmp_path], use_cache=False).diagnostics

    assert [(Path(each.path).name, each.code) for each in found] == [
        ("loop.py", "d9d-syntax"),
        ("pipe.py", "d9d-syntax"),
        ("task.py", "d9d-unregistered"),
    ]


def test_a_long_line_of_imports_is_followed(tmp_path: Path) -> None:
    """Each module is run within the one that imports it, and the last imports the first."""
    for number in range(300):
        (tmp_path / f"m{number}.py").write_text(f"import d9d\nfrom m{(number + 1) % 300} import *\n{_HANDLER}")

    found = check([tmp_path], use_cache=False).diagnostics

    assert {each.code for each in found} == {"d9d-unregistered"}
    assert len(found) == 300


def test_a_source_in_another_encoding_is_read_as_it_says(tmp_path: Path) -> None:
    """As Python reads it."""
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")

    assert check([tmp_path], use_cache=False).diagnostics == []


@pytest.mark.parametrize(
    "book",
    [
        "{",
        "[]",
        "null",
        "{}",
        '{"cells": 5}',
        '{"cells": [5]}',
        '{"cells": [{"cell_type": "code", "source": 5}]}',
        '{"cells": [{"cell_type": "code", "source": [5]}]}',
        '{"cells": [{"cell_type": "code", "source": "\\ud800"}]}',
        '{"cells": ' + "[" * 100_000,
    ],
)
def test_a_broken_notebook_is_an_error(tmp_path: Path, book: str) -> None:
    """Whatever it lacks."""
    (tmp_path / "book.ipynb").write_text(book)

    (found,) = check([tmp_path], use_cache=False).diagnostics

    assert found.code == "d9d-syntax"


def test_magic_of_notebooks_is_left_out(tmp_path: Path) -> None:
    """Commands, help, cells in other languages; the code of a cell that is timed is checked."""
    cells = [
        "%%bash\nif [ -f x ]; then rm x; fi",
        "%load_ext autoreload\n!pip install \\\n  d9d\nfiles = !ls *.py\nx = %pwd\nif files:\n    !ls\nprint?\n?print",
        {"cell_type": "markdown"},
        {"cell_type": "code"},
        "text = '''\n100\n'''\nrate = 10 % 3",
        f"%%time\n{_HANDLER}",
    ]
    book = {"cells": [cell if isinstance(cell, dict) else {"cell_type": "code", "source": cell} for cell in cells]}
    (tmp_path / "book.ipynb").write_text(json.dumps(book))

    (found,) = check([tmp_path], use_cache=False).diagnostics

    assert (found.code, found.cell, found.line) == ("d9d-unregistered", 6, 7)


def test_a_hostile_cache_is_made_again(tmp_path: Path) -> None:
    """Anybody may have written it."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "task.py").write_text(_HANDLER)
    expected = check([tmp_path]).diagnostics
    (cached,) = (tmp_path / ".d9d_cache").glob("summaries-*.json")
    content = json.loads(cached.read_text())

    no_function: dict[str, object] = {"body": [], "imports": [], "functions": [{}], "classes": []}
    damages: list[object] = [{}, {"functions": [{}]}, no_function, 5]
    for damaged in damages:
        cached.write_text(json.dumps(dict.fromkeys(content, damaged)))

        assert check([tmp_path]).diagnostics == expected


def test_names_that_the_output_cannot_encode_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A name of a file may be any bytes."""
    (tmp_path / os.fsdecode(b"bad\xff.py")).write_text("def\n")

    assert main([str(tmp_path), "--no-cache"]) == 1
    assert b"\\udcff.py" in capsysbinary.readouterr().out
