"""`check`: what on disk is not as the catalogue says."""

from itertools import product

import pytest

from .workspace import SMALL, Workspace, rules

EDITS = ["appended", "replaced", "emptied"]


@pytest.mark.parametrize(
    ("path", "edit"),
    [
        *product(["shop/events/sale.py", "shop/events/index.json", "docs/events/sale.md"], EDITS),
        *product(["shop/events/__init__.py", "docs/events/README.md"], ["appended", "emptied"]),
    ],
)
def test_an_edit_of_a_generated_file_is_found_and_mended(small: Workspace, path: str, edit: str) -> None:
    """However a generated file was edited, `check` names it and `generate` restores it."""
    small.run("generate")
    before = small.read(path)
    small.write({"appended": before + "# more\n", "replaced": "something else\n", "emptied": ""}[edit], path)
    status, output = small.run("check")
    assert (status, rules(output)) == (1, [f"{path}: error[out-of-date]"])
    assert small.run("generate") == (0, "wrote 1 of 7 files\n")
    assert small.read(path) == before


def test_check_shows_the_difference_and_the_command_to_run(small: Workspace) -> None:
    """The report on a stale file holds a diff and says what to do."""
    small.run("generate")
    stale = small.read("shop/events/common.py").replace("step: int", "step: float")
    small.write(stale, "shop/events/common.py")
    status, output = small.run("check")
    assert status == 1
    assert output == (
        "shop/events/common.py: error[out-of-date]: differs from what catalogue.yaml says\n"
        "--- shop/events/common.py (on disk)\n"
        "+++ shop/events/common.py (generated)\n"
        "@@ -16,4 +16,4 @@\n"
        "         step: The step's index.\n"
        '     """\n'
        " \n"
        "-    step: float\n"
        "+    step: int\n"
        "   run `d9d-catalogue generate`\n"
    )


def test_check_names_every_stale_and_missing_file_and_writes_nothing(small: Workspace) -> None:
    """`check` after an edit of the catalogue names what has to be generated anew."""
    small.run("generate")
    (small.root / "shop/events/common.py").unlink()
    small.write(SMALL.replace("Triggered when the door opens.", "Triggered at nine."))
    before = small.files()
    status, output = small.run("check")
    assert (status, rules(output)) == (
        1,
        [
            "docs/events/README.md: error[out-of-date]",
            "docs/events/sale.md: error[out-of-date]",
            "shop/events/common.py: error[missing]",
            "shop/events/sale.py: error[out-of-date]",
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
