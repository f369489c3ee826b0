"""`generate`: files are written all or none, and left alone where nothing changed."""

from pathlib import Path

import pytest

from .workspace import SMALL, TWO_LOOPS, Workspace, rules


def test_generating_again_changes_nothing_and_keeps_all_times(small: Workspace) -> None:
    """The same catalogue gives the same bytes, and files that are right are not touched."""
    small.run("generate")
    before = small.files()
    times = {path: Path(path).stat().st_mtime_ns for path in before}
    small.run("generate")
    assert small.files() == before
    assert {path: Path(path).stat().st_mtime_ns for path in before} == times


def test_only_files_that_change_are_written(small: Workspace) -> None:
    """A change to one module leaves the other modules' times alone."""
    small.run("generate")
    times = {path: Path(path).stat().st_mtime_ns for path in small.files()}
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine."))
    assert small.run("generate") == (0, "wrote 3 of 7 files\n")
    changed = {path for path, time in times.items() if Path(path).stat().st_mtime_ns != time}
    assert changed == {"catalogue.yaml", "docs/events/README.md", "docs/events/sale.md", "shop/events/sale.py"}


def test_a_new_event_and_a_new_field_appear_in_code_index_and_pages(small: Workspace) -> None:
    """One edit of the catalogue reaches every output."""
    small.run("generate")
    edited = SMALL.replace(
        "doc: The step's index.}", "doc: The step's index.}\n          price: {type: float, doc: In cents.}"
    ).replace(
        "      EVENT_SALE_CLOSED:",
        "      EVENT_SALE_CLOSING: {id: sale.closing, phase: closing, context: EventDayContext, doc: Last orders.}\n"
        "      EVENT_SALE_CLOSED:",
    )
    small.write(edited)
    assert small.run("generate")[0] == 0
    assert "    price: float\n" in small.read("shop/events/common.py")
    assert "| `price` | `float` | In cents. |" in small.read("docs/events/common.md")
    for path in ("shop/events/sale.py", "docs/events/sale.md", "shop/events/index.json", "docs/events/README.md"):
        assert "EVENT_SALE_CLOSING" in small.read(path)


def test_a_bad_catalogue_changes_no_file(small: Workspace) -> None:
    """Output of the last good catalogue stay as they were."""
    small.run("generate")
    before = small.files()
    small.write(TWO_LOOPS.replace("id: loan.opened", "id: sale.opened"))
    assert small.run("generate")[0] == 1
    assert {**small.files(), "catalogue.yaml": b""} == {**before, "catalogue.yaml": b""}


def test_outputs_of_a_removed_module_go(small: Workspace) -> None:
    """A module that left the catalogue leaves the disk; `check` calls its files orphaned until then."""
    small.write(TWO_LOOPS)
    small.run("generate")
    small.write(SMALL)
    status, output = small.run("check")
    assert status == 1
    assert [rule for rule in rules(output) if "orphaned" in rule] == [
        "docs/events/loan.md: error[orphaned]",
        "shop/events/loan.py: error[orphaned]",
    ]
    assert small.run("generate") == (0, "wrote 3 of 7 files, removed 2\n")
    assert not (small.root / "shop/events/loan.py").exists()
    assert small.run("check")[0] == 0


def test_pages_go_when_the_project_no_longer_wants_them(small: Workspace) -> None:
    """Pages in a folder that the project no longer names are orphans, too."""
    small.run("generate")
    small.write("", "pyproject.toml")
    assert small.run("generate") == (0, "wrote 1 of 4 files, removed 3\n")
    assert not (small.root / "docs").exists()


def test_files_that_somebody_wrote_are_never_removed(small: Workspace) -> None:
    """Handwritten modules and pages are not orphans, even next to generated ones."""
    mine = [small.write("MINE = 1\n", "shop/events/mine.py"), small.write("# Mine\n", "docs/events/mine.md")]
    small.run("generate")
    assert small.run("check")[0] == 0
    assert all(path.exists() for path in mine)


def test_a_module_that_somebody_wrote_is_not_overwritten(small: Workspace) -> None:
    """Where a file by hand is in the way of a module, nothing is written."""
    small.write("MINE = 1\n", "shop/events/sale.py")
    before = small.files()
    status, output = small.run("generate")
    assert status == 1
    assert output == (
        "shop/events/sale.py: error[not-generated]: a file that was not generated is in the way\n"
        "   move it away, or rename the module\n"
    )
    assert small.files() == before


def test_a_package_and_an_index_page_that_somebody_wrote_stay(small: Workspace) -> None:
    """`__init__.py` and `README.md` by hand are left in peace; an empty `__init__.py` is filled."""
    small.write('"""My own package."""\n', "shop/events/__init__.py")
    small.write("# My own pages\n", "docs/events/README.md")
    assert small.run("generate") == (0, "wrote 5 of 7 files\n")
    assert small.read("shop/events/__init__.py") == '"""My own package."""\n'
    assert small.run("check")[0] == 0


def test_a_folder_in_the_way_changes_no_file(small: Workspace) -> None:
    """Where a file cannot be written, no other one is."""
    (small.root / "shop/events/sale.py").mkdir(parents=True)
    before = small.files()
    status, output = small.run("generate")
    assert status == 1
    assert output == (
        "shop/events/sale.py: error[unwritable]: the file cannot be written: a folder is in the way\n"
        "   no file was changed; fix this and generate again\n"
    )
    assert small.files() == before


def test_a_failure_in_a_new_project_leaves_no_folder_behind(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that were made for files that could not be written go again."""
    monkeypatch.setattr(Path, "replace", lambda path, target: path.rename(small.root / "no/such/folder"))
    assert small.run("generate")[0] == 1
    assert sorted(path.name for path in small.root.iterdir()) == ["catalogue.yaml", "pyproject.toml"]


@pytest.mark.parametrize(
    "files", ['["../../mine.py", "/etc/passwd", 3, "a\\u0000/b", ""]', '"everything"', "{}", "null"]
)
def test_an_index_that_makes_no_sense_is_replaced(small: Workspace, files: str) -> None:
    """Nothing outside of the project is touched because a broken index names it."""
    mine = small.write("# MINE\n", "../mine.py")
    small.run("generate")
    small.write(f'{{"files": {files}}}', "shop/events/index.json")
    assert small.run("generate") == (0, "wrote 1 of 7 files\n")
    assert mine.read_text(encoding="utf-8") == "# MINE\n"


def test_an_index_that_somebody_wrote_is_not_overwritten(small: Workspace) -> None:
    """A file of that name in a folder that is to become a package may be anything."""
    small.write("[]", "shop/events/index.json")
    status, output = small.run("generate")
    assert (status, rules(output)) == (1, ["shop/events/index.json: error[not-generated]"])
    assert small.read("shop/events/index.json") == "[]"


@pytest.mark.parametrize("num_good", range(5))
def test_a_failure_half_way_leaves_all_as_it_was(
    small: Workspace, monkeypatch: pytest.MonkeyPatch, num_good: int
) -> None:
    """Whichever replacement fails, files already replaced, removed or made are as before again."""
    small.write(TWO_LOOPS)
    small.run("generate")
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine.") + NEW_LOOP)
    before = small.files()
    moves, replace = iter(range(num_good)), Path.replace

    def fail_in_the_end(path: Path, target: Path) -> Path:
        if next(moves, None) is None:
            raise OSError(28, "No space left on device", str(target))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_in_the_end)
    status, output = small.run("generate")
    assert status == 1
    assert "the file cannot be written: No space left on device" in output
    assert small.files() == before
    monkeypatch.undo()
    monkeypatch.chdir(small.root)
    assert small.run("generate")[0] == 0
    assert small.run("check")[0] == 0


def test_a_failure_half_way_leaves_what_somebody_else_has_written(
    small: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what this run has changed is restored, and only what it has staged is cleared away."""
    small.run("generate")
    small.write(SMALL.replace("doc: ", "doc: Now "))
    before, replace = small.files(), Path.replace
    replaced: list[Path] = []

    def fail_in_the_end(path: Path, target: Path) -> Path:
        if len(replaced) == 2:
            replaced[0].write_text("somebody else's\n")
            small.write("staged by somebody else\n", "shop/events/.sale.py.1-abc.d9d-new")
            raise OSError(28, "No space left on device", str(target))
        replaced.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_in_the_end)
    assert small.run("generate")[0] == 1
    theirs = str(replaced[0])
    assert small.files() == {
        **before,
        theirs: b"somebody else's\n",
        "shop/events/.sale.py.1-abc.d9d-new": b"staged by somebody else\n",
    }


NEW_LOOP = """\
  rent:
    doc: Events of a rental.
    phases:
      open: {doc: The shop is open.}
    contexts:
      EventRentContext: {doc: Context of a rental.}
    events:
      EVENT_RENT_OPENED: {id: rent.opened, phase: open, context: EventRentContext, doc: Triggered at nine.}
"""
