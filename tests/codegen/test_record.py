"""One record lists every generated file: what no catalogue declares any more is named by `check`, and removed."""

import json

import pytest

from .test_projects import LOAN, TOGETHER
from .workspace import PYPROJECT, SMALL, Workspace, rules

RECORD = ".d9d-catalogue.json"
RENAMED = SMALL.replace("package: shop.events", "package: store.events")


def orphans(workspace: Workspace) -> list[str]:
    """Return the files that `check` calls orphaned."""
    status, output = workspace.run("check")
    assert status == 1
    return [line.partition(":")[0] for line in output.splitlines() if "error[orphaned]" in line]


def test_the_modules_of_a_renamed_package_go(small: Workspace) -> None:
    """Nothing under the old name can be imported any more; `check` names the old files until then."""
    small.run("generate")
    small.write(RENAMED)
    assert orphans(small) == [f"shop/events/{name}" for name in ("__init__.py", "common.py", "index.json", "sale.py")]
    assert small.run("generate") == (0, "wrote 7 of 7 files, removed 4\n")
    assert not (small.root / "shop").exists()
    assert small.run("check")[0] == 0


def test_the_files_of_a_catalogue_that_the_project_no_longer_names_go(small: Workspace) -> None:
    """Its modules and its pages, although the catalogue itself is still there."""
    small.write(LOAN, "loans/catalogue.yaml")
    small.write(TOGETHER, "pyproject.toml")
    small.run("generate")
    small.write(TOGETHER.replace('"loans/catalogue.yaml", ', ""), "pyproject.toml")
    small.write(SMALL)
    expected = [f"loans/events/{name}" for name in ("__init__.py", "common.py", "index.json", "loan.py")]
    assert [path for path in orphans(small) if path.startswith("loans")] == expected
    assert small.run("generate") == (0, "wrote 4 of 7 files, removed 10\n")
    assert sorted(path.name for path in (small.root / "loans").iterdir()) == ["catalogue.yaml"]
    assert small.run("check")[0] == 0


def test_the_files_of_a_catalogue_that_is_gone_go(small: Workspace) -> None:
    """Where the project names no catalogues, one that does not exist any more counts as dropped."""
    small.write(LOAN.replace("shop.events.common.EventStepContext", "EventTermContext"), "loans.yaml")
    small.run("generate", "--catalogue", "loans.yaml")
    small.run("generate")
    assert small.run("check")[0] == 0
    (small.root / "loans.yaml").unlink()
    assert small.run("generate")[1].endswith(", removed 5\n")
    assert not (small.root / "loans").exists()


def test_one_catalogue_alone_leaves_the_files_of_the_others(small: Workspace) -> None:
    """`--catalogue` compiles one of several, and the record keeps the rest."""
    small.write(LOAN, "loans/catalogue.yaml")
    small.write(TOGETHER, "pyproject.toml")
    small.run("generate")
    assert small.run("generate", "--catalogue", "catalogue.yaml") == (0, "wrote 0 of 7 files\n")
    assert small.run("check") == (0, "all 14 files are up to date with loans/catalogue.yaml and catalogue.yaml\n")


@pytest.mark.parametrize("change", ["package", "module"])
def test_a_file_that_was_edited_by_hand_is_never_removed(small: Workspace, change: str) -> None:
    """It is named, and nothing at all is written, until somebody has saved the edit."""
    small.run("generate")
    small.write(small.read("shop/events/sale.py") + "MINE = 1\n", "shop/events/sale.py")
    small.write({"package": RENAMED, "module": SMALL.replace("sale", "deal")}[change])
    before = small.files()
    status, output = small.run("generate")
    assert (status, small.files()) == (1, before)
    assert output == (
        "shop/events/sale.py: error[edited-by-hand]: "
        "no catalogue declares this generated file any more, and it was edited by hand\n"
        "   keep your edit elsewhere, and delete the file\n"
    )
    assert output in small.run("check")[1]
    (small.root / "shop/events/sale.py").unlink()
    assert small.run("generate")[0] == 0


def test_a_file_that_somebody_wrote_is_never_removed(small: Workspace) -> None:
    """Neither next to the modules of a renamed package, nor if it is a copy of one of them."""
    small.run("generate")
    small.write("MINE = 1\n", "shop/events/mine.py")
    small.write(small.read("shop/events/sale.py"), "shop/events/copy.py")
    small.write(RENAMED)
    assert small.run("generate")[0] == 0
    assert sorted(path.name for path in (small.root / "shop/events").iterdir()) == ["copy.py", "mine.py"]


def test_a_file_without_digests_is_known_by_the_record(small: Workspace) -> None:
    """What a template makes without digests goes as well, unless it was edited."""
    small.write("{{ notice }}\n", "own/names.txt.jinja")
    small.run("generate", "--templates", "own")
    small.write("{{ notice }}\n", "own/more.txt.jinja")
    small.run("generate", "--templates", "own")
    small.write("mine\n", "shop/events/more.txt")
    status, output = small.run("generate")
    assert (status, rules(output)) == (1, ["shop/events/more.txt: error[edited-by-hand]"])
    (small.root / "shop/events/more.txt").unlink()
    assert small.run("generate")[1].endswith("removed 1\n")
    assert not (small.root / "shop/events/names.txt").exists()


def test_a_record_that_is_missing_is_named_and_written(small: Workspace) -> None:
    """A project from before there was a record gets one."""
    small.run("generate")
    (small.root / RECORD).unlink()
    status, output = small.run("check")
    assert (status, output) == (
        1,
        (
            f"{RECORD}: error[stale]: the list of generated files is missing\n"
            "   run `d9d-catalogue generate`, and commit the list\n"
        ),
    )
    assert small.run("generate") == (0, "wrote 0 of 7 files\n")
    assert small.run("check")[0] == 0


def test_without_a_record_a_removed_module_is_known_by_its_head(small: Workspace) -> None:
    """A project from before there was a record loses no module silently either."""
    small.run("generate")
    (small.root / RECORD).unlink()
    small.write(SMALL.replace("sale", "deal"))
    assert [path for path in orphans(small) if path.startswith("shop")] == ["shop/events/sale.py"]
    assert small.run("generate")[1].endswith("removed 2\n")


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< ours\n{}\n",
        "[]",
        "{}",
        '{"files": {"catalogue.yaml": ["../mine.py"]}, "digests": {}}',
        '{"files": {"catalogue.yaml": ["/etc/passwd"]}, "digests": {}}',
        '{"files": {"catalogue.yaml": [3]}, "digests": {}}',
        '{"files": {"catalogue.yaml": ["a\\u0000"]}, "digests": {}}',
    ],
)
def test_a_record_that_makes_no_sense_is_refused(small: Workspace, text: str) -> None:
    """Writing a new one would forget what it listed."""
    small.run("generate")
    small.write(text, RECORD)
    before = small.files()
    for command in ("generate", "check"):
        status, output = small.run(command)
        assert (status, rules(output)) == (1, [f"{RECORD}: error[bad-record]"])
    assert small.files() == before


def test_a_forged_record_removes_no_file_that_was_not_generated(small: Workspace) -> None:
    """It may list any file of the project, and none outside; only what is exactly as it was generated goes."""
    mine = small.write("MINE = 1\n", "mine.py")
    small.run("generate")
    content = json.loads(small.read(RECORD))
    content["files"]["gone.yaml"] = ["mine.py"]
    small.write(json.dumps(content), RECORD)
    assert rules(small.run("generate")[1]) == ["mine.py: error[edited-by-hand]"]
    assert mine.read_text(encoding="utf-8") == "MINE = 1\n"


@pytest.mark.parametrize("place", ["shop", "shop/events", "shop/events/sale.py"])
def test_no_file_is_written_through_a_link(small: Workspace, place: str) -> None:
    """A folder or file of the project that is a symbolic link may lead anywhere."""
    outside = small.root.parent / f"{small.root.name}-outside"
    outside.mkdir()
    link = small.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside if place != "shop/events/sale.py" else outside / "file")
    status, output = small.run("generate")
    assert (status, "error[outside-project]: the path is a symbolic link" in output) == (1, True)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [("doc", "docs"), ("catalogue", "catalogues"), ("template", "templates"), ("source", "sources"), ("colour", None)],
)
def test_an_unknown_key_of_the_project_is_refused(small: Workspace, key: str, meant: str | None) -> None:
    """A misspelt `docs` would take all pages for obsolete."""
    small.run("generate")
    before = small.files()
    small.write(f'[project]\nname = "shop"\n\n[tool.d9d]\n{key} = "docs/events"\n', "pyproject.toml")
    remedy = f'did you mean "{meant}"?' if meant else "the keys are catalogues, docs, templates, sources"
    for command in ("generate", "check", "lint"):
        assert small.run(command) == (
            1,
            (
                f'pyproject.toml:5:1: error[bad-project]: unknown key "{key}" in [tool.d9d]\n'
                f'    5 | {key} = "docs/events"\n      | {"^" * len(key)}\n   {remedy}\n'
            ),
        )
    small.write(PYPROJECT, "pyproject.toml")
    assert small.files() == before


def test_an_unknown_key_above_a_catalogue_is_refused_too(small: Workspace) -> None:
    """Otherwise the catalogue would count as a project of its own, with its modules in another folder."""
    small.write(LOAN, "loans/catalogue.yaml")
    small.write(TOGETHER.replace("catalogues", "catalouges"), "pyproject.toml")
    status, output = small.run("generate", "--catalogue", "loans/catalogue.yaml")
    assert (status, rules(output)) == (1, ["pyproject.toml:2:1: error[bad-project]"])


def test_the_project_may_name_the_sources_that_the_checker_reads(small: Workspace) -> None:
    """`sources` lists files and folders of the project."""
    small.write(PYPROJECT + 'sources = ["src", "train.py"]\n', "pyproject.toml")
    assert small.run("generate")[0] == 0
    small.write(PYPROJECT + 'sources = "src"\n', "pyproject.toml")
    assert rules(small.run("generate")[1]) == ["pyproject.toml:3:1: error[bad-project]"]
