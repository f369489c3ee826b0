"""`check`: which files on disk differ from the catalogue."""

import cProfile
import json
import shutil
from itertools import product

import pytest

from d9d_codegen.files import body_of, digests_in

from .workspace import PYPROJECT, SMALL, Workspace, rules

EDITS = ["appended", "replaced", "emptied"]


@pytest.mark.parametrize(
    ("path", "edit"),
    [
        *product(["shop/events/sale.py", "shop/events/index.json", "docs/events/sale.md"], EDITS),
        *product(["shop/events/__init__.py", "docs/events/README.md"], ["appended", "emptied"]),
    ],
)
def test_an_edit_of_a_generated_file_is_found_and_undone(small: Workspace, path: str, edit: str) -> None:
    """However a generated file was edited, `check` names it and `generate` restores it."""
    small.run("generate")
    before = small.read(path)
    small.write({"appended": before + "# more\n", "replaced": "something else\n", "emptied": ""}[edit], path)
    status, output = small.run("check")
    assert (status, rules(output)) == (1, [f"{path}: error[edited-by-hand]"])
    assert small.run("generate") == (0, "wrote 1 of 7 files\n")
    assert small.read(path) == before


def test_check_shows_the_difference_and_the_command_to_run(small: Workspace) -> None:
    """The report on an edited file has a diff and the command to run."""
    small.run("generate")
    edited = small.read("shop/events/common.py").replace("step: int", "step: float")
    small.write(edited, "shop/events/common.py")
    status, output = small.run("check")
    assert status == 1
    assert output == (
        "shop/events/common.py: error[edited-by-hand]: was edited by hand\n"
        "--- shop/events/common.py (on disk)\n"
        "+++ shop/events/common.py (generated)\n"
        "@@ -17,4 +17,4 @@\n"
        "         step: The step's index.\n"
        '     """\n'
        " \n"
        "-    step: float\n"
        "+    step: int\n"
        "   make the change in catalogue.yaml, and run `d9d-catalogue generate`, which undoes the edit\n"
    )


def told(small: Workspace, path: str) -> str:
    """Return the diagnostic of `check` about one file, without the diff."""
    _, output = small.run("check", "--format", "json")
    [diagnostic] = [diagnostic for diagnostic in json.loads(output) if diagnostic["path"] == path]
    return f"{diagnostic['rule']}: {diagnostic['message']}; {diagnostic['remedy']}"


def test_a_file_that_nobody_edited_is_stale_because_the_catalogue_changed(small: Workspace) -> None:
    """An unedited file is stale because the catalogue has changed."""
    small.run("generate")
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine."))
    assert told(small, "shop/events/sale.py") == (
        "stale: catalogue.yaml has changed since this file was generated; run `d9d-catalogue generate`"
    )


def test_a_file_can_be_stale_though_its_part_of_the_catalogue_stayed(small: Workspace) -> None:
    """Where nothing that the file is about has changed, something around it has."""
    small.run("generate")
    small.write(PYPROJECT + "[tool.ruff]\nline-length = 30\n", "pyproject.toml")
    assert told(small, "shop/events/sale.py") == (
        "stale: d9d-catalogue, a setting of the project or another part of catalogue.yaml has changed since this file "
        "was generated; run `d9d-catalogue generate`"
    )


def test_a_file_can_be_edited_by_hand_and_stale_at_once(small: Workspace) -> None:
    """Both are reported, since the diff shows both."""
    small.run("generate")
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine."))
    small.write(small.read("shop/events/sale.py") + "MINE = 1\n", "shop/events/sale.py")
    assert told(small, "shop/events/sale.py") == (
        "edited-by-hand: was edited by hand, and catalogue.yaml has changed since as well; make the change in "
        "catalogue.yaml, and run `d9d-catalogue generate`, which undoes the edit"
    )


@pytest.mark.parametrize("path", ["shop/events/sale.py", "docs/events/sale.md", "shop/events/index.json"])
def test_the_digest_of_the_body_holds_for_every_byte_but_its_own_line(small: Workspace, path: str) -> None:
    """A file is as it was generated only while each line of it is."""
    small.run("generate")
    lines = small.read(path).splitlines(keepends=True)
    for number, line in enumerate(lines):
        content = "".join([*lines[:number], line[:-1] + " \n", *lines[number + 1 :]]).encode()
        digests = digests_in(content)
        assert digests is not None
        assert (digests.body == body_of(content)) == ("body" in line)


def test_a_module_keeps_its_digests_when_another_one_changes(small: Workspace) -> None:
    """The digest of the catalogue is that of the part which a file is about."""
    small.run("generate")
    before = small.read("shop/events/common.py")
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine."))
    small.run("generate")
    assert small.read("shop/events/common.py") == before


def test_check_names_every_stale_and_missing_file_and_writes_nothing(small: Workspace) -> None:
    """`check` after an edit of the catalogue names what has to be generated again."""
    small.run("generate")
    (small.root / "shop/events/common.py").unlink()
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine."))
    before = small.files()
    status, output = small.run("check")
    assert (status, rules(output)) == (
        1,
        [
            "docs/events/README.md: error[stale]",
            "docs/events/sale.md: error[stale]",
            "shop/events/common.py: error[missing]",
            "shop/events/sale.py: error[stale]",
        ],
    )
    assert small.files() == before


def test_what_a_killed_run_left_behind_is_cleared_away(small: Workspace) -> None:
    """Texts that were staged but never put in place are orphans."""
    small.run("generate")
    small.write(small.read("shop/events/sale.py"), "shop/events/.sale.py.d9d-new")
    status, output = small.run("check")
    assert (status, rules(output)) == (1, ["shop/events/.sale.py.d9d-new: error[orphaned]"])
    assert small.run("generate") == (0, "wrote 0 of 7 files, removed 1\n")


def test_a_half_written_text_that_a_killed_run_left_behind_goes_too(small: Workspace) -> None:
    """What was staged is known by its name, for it need not even have a head."""
    small.run("generate")
    small.write("# Gen", "shop/events/.sale.py.d9d-new")
    assert small.run("generate") == (0, "wrote 0 of 7 files, removed 1\n")


def test_check_does_no_more_than_generate(small: Workspace) -> None:
    """Counted in calls of functions, which no other load of the machine changes; the benchmark has the seconds."""
    small.write(PYPROJECT, "pyproject.toml")

    def num_calls(command: str) -> int:
        profile = cProfile.Profile()
        status, _ = profile.runcall(small.run, command)
        assert status == 0
        return sum(entry.callcount for entry in profile.getstats())

    num_calls("generate")  # loads what is loaded but once
    for path in ("shop", "docs"):
        shutil.rmtree(small.root / path)
    assert num_calls("generate") >= num_calls("check")
