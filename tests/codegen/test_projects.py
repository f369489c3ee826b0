"""A project may have several catalogues: they are compiled together, and each owns its package and namespaces."""

from pathlib import Path

import pytest

from .workspace import SMALL, Workspace, rules

LOAN = """\
version: 1
package: loans.events
modules:
  common:
    doc: Contexts of all loans.
    contexts:
      EventTermContext: {doc: Context of a term.}
  loan:
    doc: Events of a loan.
    phases: {open: {doc: The desk is open.}}
    events:
      EVENT_LOAN_GIVEN: {id: loan.given, phase: open, context: EventTermContext, doc: Triggered when money goes.}
      EVENT_LOAN_STEPPED:
        id: loan.stepped
        phase: open
        context: shop.events.common.EventStepContext
        doc: Triggered when a customer comes.
"""
TOGETHER = '[tool.d9d]\ncatalogues = ["loans/catalogue.yaml", "catalogue.yaml"]\ndocs = "docs/events"\n'


@pytest.fixture
def both(small: Workspace) -> Workspace:
    """A project with two catalogues, one of which names a context of the other."""
    small.write(LOAN, "loans/catalogue.yaml")
    small.write(TOGETHER, "pyproject.toml")
    return small


def test_the_catalogues_that_a_project_names_are_generated_and_checked_together(both: Workspace) -> None:
    """Without `--catalogue` all of them are compiled, even when one names what the other has not generated yet."""
    assert both.run("generate") == (0, "wrote 14 of 14 files\n")
    assert both.run("check") == (0, "all 14 files are up to date with loans/catalogue.yaml and catalogue.yaml\n")
    assert both.run("lint") == (0, "6 events, no errors\n")
    assert "EventStepContext" in both.read("loans/events/loan.py")


def test_pages_of_several_catalogues_lie_in_folders_of_their_own(both: Workspace) -> None:
    """Both have a page for `common`, below the name of their packages."""
    both.run("generate")
    assert "Contexts of all loans." in both.read("docs/events/loans.events/common.md")
    assert "Contexts of all loops." in both.read("docs/events/shop.events/common.md")


def test_pages_move_when_a_second_catalogue_comes(small: Workspace) -> None:
    """Pages that lay in the folder itself are orphans as soon as there are two catalogues."""
    small.run("generate")
    small.write(LOAN, "loans/catalogue.yaml")
    small.write(TOGETHER, "pyproject.toml")
    assert small.run("generate") == (0, "wrote 11 of 14 files, removed 3\n")
    assert sorted(path.name for path in (small.root / "docs/events").iterdir()) == ["loans.events", "shop.events"]
    assert small.run("check")[0] == 0


def test_an_error_of_one_catalogue_keeps_all_files_as_they_were(both: Workspace) -> None:
    """Either every output of every catalogue is written, or none."""
    both.write(SMALL.replace("phase: opening", "phase: openning"))
    before = both.files()
    status, output = both.run("generate")
    assert (status, rules(output)) == (1, ["catalogue.yaml:23:16: error[unknown-phase]"])
    assert both.files() == before


def test_diagnostics_of_all_catalogues_are_reported_at_once(both: Workspace) -> None:
    """They stand in the order in which the project names the catalogues."""
    both.write(SMALL.replace("phase: opening", "phase: openning"))
    both.write(LOAN.replace("id: loan.given", "id: sale.given"), "loans/catalogue.yaml")
    assert rules(both.run("check")[1]) == [
        "loans/catalogue.yaml:12:30: error[foreign-id]",
        "catalogue.yaml:23:16: error[unknown-phase]",
    ]


def test_one_catalogue_of_several_can_be_named(both: Workspace) -> None:
    """It belongs to the project that names it, wherever it is in that."""
    assert both.run("generate", "--catalogue", "loans/catalogue.yaml") == (0, "wrote 7 of 7 files\n")
    assert (both.root / "loans/events/loan.py").is_file()
    assert not (both.root / "shop").exists()


def test_the_project_is_found_from_a_folder_within_it(both: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest `pyproject.toml` names the catalogues."""
    (both.root / "loans").mkdir(exist_ok=True)
    monkeypatch.chdir(both.root / "loans")
    assert both.run("generate") == (0, "wrote 14 of 14 files\n")
    assert (both.root / "shop/events/sale.py").is_file()


def test_a_catalogue_of_its_own_below_a_project_is_not_the_projects(
    both: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with a `catalogue.yaml` that the project above does not name, that one is meant."""
    both.write(SMALL, "inner/catalogue.yaml")
    monkeypatch.chdir(both.root / "inner")
    assert both.run("generate") == (0, "wrote 4 of 4 files\n")
    assert (both.root / "inner/shop/events/sale.py").is_file()


def test_an_installed_catalogue_owns_its_namespaces(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group `d9d.catalogues` names the package of an installed catalogue."""
    small.write('{"package": "bank.events", "modules": {"sale": {}}}', "site/bank/events/index.json")
    small.write("", "site/bank/events/__init__.py")
    small.write(
        "[console_scripts]\nbank = bank:main\n\n[d9d.catalogues]\nbank = bank.events\n",
        "site/bank-1.0.dist-info/entry_points.txt",
    )
    assert small.run("lint")[0] == 0
    monkeypatch.syspath_prepend(small.root / "site")
    status, output = small.run("lint")
    assert (status, len(rules(output))) == (1, 4)
    assert 'the namespace "sale" of EVENT_SALE_OPENED belongs to bank.events\n' in output


@pytest.mark.parametrize("named", ['"catalogue.yaml"', "[]", "[3]", '["../catalogue.yaml"]', '["/catalogue.yaml"]'])
def test_catalogues_that_are_no_list_of_files_are_refused(small: Workspace, named: str) -> None:
    """`[tool.d9d] catalogues` names files below the project's root."""
    small.write(f"[tool.d9d]\ncatalogues = {named}\n", "pyproject.toml")
    status, output = small.run("generate")
    assert status == 1
    assert output.startswith("pyproject.toml:2:1: error[bad-project]: [tool.d9d] catalogues is ")


def test_a_catalogue_that_is_named_and_missing_is_reported(small: Workspace) -> None:
    """The others are read all the same, and nothing is written."""
    small.write(TOGETHER, "pyproject.toml")
    status, output = small.run("generate")
    assert (status, rules(output)) == (1, ["loans/catalogue.yaml: error[unreadable]"])
    assert not Path("shop").exists()


def test_source_of_two_catalogues_is_reported_once(both: Workspace) -> None:
    """A place in source is reported once, even if several catalogues are checked."""
    both.write(
        "from elsewhere import EVENT_OTHER\n\n\ndef start(bus):\n    bus.subscribe(EVENT_OTHER, print)\n", "start.py"
    )
    _, output = both.run("coverage", "start.py")
    assert output.count("warning[never-called]") == 1


def test_a_package_too_long_for_a_folder_is_refused(small: Workspace) -> None:
    """The name is a good one for Python, and no file system has room for it."""
    small.write(SMALL.replace("package: shop.events", f"package: {'s' * 300}.events"))
    before = small.files()
    for command in ("generate", "check"):
        status, output = small.run(command)
        assert status == 1
        assert "error[unwritable]: the file cannot be written: File name too long" in output
    assert small.files() == before
