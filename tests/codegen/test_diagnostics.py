"""All errors of a catalogue are reported at once, in file order, in exact words: a case per file in `bad/`."""

from pathlib import Path

import pytest

from d9d_codegen.lint import RULES

from .workspace import SMALL, Workspace

BAD = Path(__file__).parent / "bad"
CASES = sorted(path.stem for path in BAD.glob("*.yaml"))
RULES_OF_SHAPE = {
    "bad-suppression",
    "bad-key",
    "bad-yaml",
    "control-character",
    "duplicate-key",
    "empty-text",
    "missing-key",
    "unknown-key",
    "unused-suppression",
    "unknown-stability",
    "unknown-version",
    "wrong-kind",
    "yaml-alias",
    "yaml-anchor",
    "yaml-tag",
}


@pytest.mark.parametrize("case", CASES)
def test_the_errors_of_a_bad_catalogue_are_reported_in_exactly_these_words(case: str, empty: Workspace) -> None:
    """Each `bad/NAME.yaml` is refused with the text of `bad/NAME.txt`, and nothing is written."""
    for file in (BAD / case).glob("**/*.*"):
        path = file.relative_to(BAD / case).as_posix().removesuffix(".txt")
        empty.write(file.read_text(encoding="utf-8"), path)
    empty.write((BAD / f"{case}.yaml").read_text(encoding="utf-8"), f"{case}.yaml")
    before = empty.files()
    status, output = empty.run("generate", "--catalogue", f"{case}.yaml")
    assert output == (BAD / f"{case}.txt").read_text(encoding="utf-8")
    assert status == 1
    assert empty.files() == before


def test_every_rule_has_a_failing_case() -> None:
    """No rule goes without a catalogue that breaks it."""
    told = {
        line.partition("error[")[2].partition("]")[0]
        for path in BAD.glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "error[" in line
    }
    assert told == {*RULES, *RULES_OF_SHAPE}


def test_errors_stand_in_file_order(empty: Workspace) -> None:
    """Diagnostics of all rules are sorted by their place, whatever rule found them."""
    empty.write((BAD / "everything-at-once.yaml").read_text(encoding="utf-8"))
    _, output = empty.run("lint")
    places = [tuple(map(int, line.split(":")[1:3])) for line in output.splitlines() if ": error[" in line]
    assert len(places) == 8
    assert places == sorted(places)


def test_windows_line_ends_and_a_byte_order_mark_move_no_place(empty: Workspace) -> None:
    """A catalogue written on Windows has its diagnostics at the same places."""
    bad = SMALL.replace("phase: opening", "phase: openning")
    expected = empty.refused(bad)
    (empty.root / "catalogue.yaml").write_bytes(b"\xef\xbb\xbf" + bad.replace("\n", "\r\n").encode())
    _, output = empty.run("lint")
    assert [line for line in output.splitlines() if "error[" in line] == expected


def test_an_error_within_a_long_text_points_at_its_beginning(empty: Workspace) -> None:
    """A type that is written below `>-` is reported where it begins."""
    folded = SMALL.replace(
        "          step: {type: int, doc: The step's index.}",
        "          step:\n            type: >-\n              int |\n              itn\n            doc: The step.",
    )
    assert empty.refused(folded) == [
        'catalogue.yaml:11:19: error[unknown-name]: the type of field step names the unknown type "itn"',
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 10_000,
        "!!python/object/new:os.system [exit 1]",
        "%TAG ! tag:evil,2026:\n---\n!x {}\n",
        "&a {*a : *a}",
        "<<: {version: 1}",
        "version: !!int '1'",
        "'\\",
        "\ufeff\ufeff",
        "modules: {a: {contexts: {B: {fields: {c: {type: '" + "(" * 900 + "'}}}}}}",
        "modules: {a: {contexts: {B: {fields: {c: {type: '" + "-" * 900 + "1', default: '" + "[" * 900 + "'}}}}}}",
        "modules: {a: {contexts: {B: {fields: {c: {type: '" + "a." * 40_000 + "a'}}}}}}",
        "modules: {a: {contexts: {B: {fields: {c: {type: '" + "|".join(["int"] * 249) + "', doc: x}}}}}}",
    ],
    ids=range(16),
)
def test_hostile_text_is_refused_without_a_traceback(empty: Workspace, text: str) -> None:
    """Bombs, endless nesting and object tags are diagnostics like any other."""
    assert empty.refused(text) != []
