"""The command line: what it accepts, what it prints, how it exits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from d9d_codegen.cli import main

from .workspace import SMALL, Workspace

MISSPELT = SMALL.replace("context: EventDayContext", "context: EventDyaContext", 1)


def test_generate_says_how_many_files_it_wrote(small: Workspace) -> None:
    """`generate` exits with 0 and counts the files."""
    assert small.run("generate") == (0, "wrote 7 of 7 files\n")
    assert small.run("generate") == (0, "wrote 0 of 7 files\n")


def test_check_accepts_what_generate_wrote(small: Workspace) -> None:
    """`check` after `generate` exits with 0."""
    small.run("generate")
    assert small.run("check") == (0, "all 7 files are up to date with catalogue.yaml\n")


def test_lint_counts_the_events(small: Workspace) -> None:
    """`lint` of a good catalogue exits with 0."""
    assert small.run("lint") == (0, "4 events, no errors\n")


@pytest.mark.parametrize("command", ["generate", "check", "lint"])
def test_a_bad_catalogue_ends_every_command_with_1(small: Workspace, command: str) -> None:
    """Each command lists the diagnostics of a bad catalogue and exits with 1."""
    small.write(MISSPELT)
    status, output = small.run(command)
    assert status == 1
    assert output == (
        "catalogue.yaml:24:18: error[unknown-context]: "
        'event EVENT_SALE_OPENED names the unknown context "EventDyaContext"\n'
        "   24 |         context: EventDyaContext\n"
        "      |                  ^^^^^^^^^^^^^^^\n"
        '   did you mean "EventDayContext"?\n'
    )


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["lint", "--no-such-option"], ["lint", "--format=xml"]])
def test_wrong_use_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use of the command exits with 2 and shows the usage."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: d9d-catalogue" in capsys.readouterr().err


@pytest.mark.parametrize("order", [["lint", "--catalogue"], ["--catalogue"]])
def test_another_catalogue_can_be_named_before_and_after_the_command(small: Workspace, order: list[str]) -> None:
    """`--catalogue PATH` may stand on either side of the command."""
    small.write(MISSPELT, "other/events.yaml")
    status, output = small.run(*order, "other/events.yaml", *(["lint"] if order[0] != "lint" else []))
    assert status == 1
    assert output.startswith("other/events.yaml:24:18: error[unknown-context]")


def test_outputs_lie_beside_the_catalogue_and_not_in_the_current_folder(empty: Workspace) -> None:
    """The project's root is the folder of the catalogue."""
    empty.write(SMALL, "other/events.yaml")
    empty.run("generate", "--catalogue", "other/events.yaml")
    assert (empty.root / "other/shop/events/sale.py").is_file()
    assert empty.read("other/shop/events/sale.py").startswith("# Generated from events.yaml by")


def test_errors_as_json(small: Workspace) -> None:
    """`--format json` prints a list of objects, an empty one where all is well."""
    assert small.run("lint", "--format", "json") == (0, "[]\n")
    small.write(MISSPELT)
    status, output = small.run("lint", "--format", "json")
    assert status == 1
    assert json.loads(output) == [
        {
            "path": "catalogue.yaml",
            "line": 24,
            "column": 18,
            "length": 15,
            "rule": "unknown-context",
            "message": 'event EVENT_SALE_OPENED names the unknown context "EventDyaContext"',
            "remedy": 'did you mean "EventDayContext"?',
            "detail": "",
        }
    ]


def test_errors_as_commands_of_github(small: Workspace) -> None:
    """`--format github` prints a command for each diagnostic."""
    small.write(MISSPELT)
    status, output = small.run("lint", "--format", "github")
    assert status == 1
    assert output == (
        "::error file=catalogue.yaml,title=unknown-context,line=24,col=18,endColumn=33::"
        'event EVENT_SALE_OPENED names the unknown context "EventDyaContext"; did you mean "EventDayContext"?\n'
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "the catalogue is empty"),
        (b"# nothing but a comment\n", "the catalogue is empty"),
        (b"version: 1\ndoc: \xff\n", "the file is not UTF-8: line 2 contains the byte 0xff"),
        ("version: 1".encode("utf-16"), "the file is not UTF-8: line 1 contains the byte 0xff"),
        (b"version: \x00\n", "YAML does not allow the character U+0000"),
        (b"just text\n", '"catalogue" must be a mapping, not text'),
    ],
)
def test_what_is_no_catalogue_is_reported_plainly(empty: Workspace, content: bytes | None, message: str) -> None:
    """A missing, empty, non-UTF-8 or otherwise hopeless file is one diagnostic in plain words."""
    if content is not None:
        (empty.root / "catalogue.yaml").write_bytes(content)
    status, output = empty.run("generate")
    assert status == 1
    assert [line.partition("]: ")[2] for line in output.splitlines() if "error[" in line] == [message]


def test_a_folder_is_no_catalogue(empty: Workspace) -> None:
    """A path that cannot be read is said plainly, too."""
    assert empty.run("lint", "--catalogue", ".")[1].startswith(
        ".: error[unreadable]: the file cannot be read: Is a directory"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[tool.d9d\n", "the file cannot be read"),
        ('[tool.d9d]\ndocs = ["a"]\n', "[tool.d9d] docs is ['a'], not a folder in the project"),
        ('[tool.d9d]\ndocs = "../elsewhere"\n', "[tool.d9d] docs is '../elsewhere', not a folder in the project"),
    ],
)
def test_a_bad_pyproject_is_reported_plainly(small: Workspace, settings: str, message: str) -> None:
    """A `pyproject.toml` that makes no sense is a diagnostic, and nothing is written."""
    small.write(settings, "pyproject.toml")
    before = small.files()
    status, output = small.run("generate")
    assert status == 1
    assert f": error[bad-project]: {message}" in output.partition("\n")[0]
    assert small.files() == before


def test_a_terminal_that_knows_few_characters_gets_escapes(small: Workspace) -> None:
    """What a terminal cannot show is printed as an escape, not as a traceback."""
    small.write(SMALL.replace("sale.opened", "sale.geöffnet"))
    result = subprocess.run(
        [sys.executable, "-m", "d9d_codegen", "lint"],
        cwd=small.root,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, b"")
    assert rb"ge\xf6ffnet" in result.stdout


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [("| true", 0, ""), ("> /dev/full", 1, "the output cannot be written: No space left on device\n")],
    ids=["the reader has gone", "the disk is full"],
)
def test_unwritable_output_causes_no_traceback(small: Workspace, redirection: str, status: int, said: str) -> None:
    """A closed pipe keeps the exit status; a full disk is reported."""
    command = f"set -o pipefail; {sys.executable} -m d9d_codegen schema {redirection}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)  # noqa: S607 -- as in make
    assert (result.returncode, result.stderr) == (status, said)


def test_a_catalogue_without_end_is_refused(empty: Workspace) -> None:
    """Of a device only so much is read as a catalogue may hold."""
    status, output = empty.run("lint", "--catalogue", "/dev/zero")
    assert status == 1
    assert output.startswith("/dev/zero: error[unreadable]: the file is larger than 32 MiB")


# Runs every command; prints all that they print, and all that is in the files afterwards.
EVERYTHING = """
import contextlib, io, pathlib
from d9d_codegen.cli import main

def run(*arguments):
    with contextlib.redirect_stderr(io.StringIO()):
        print(arguments, main(arguments))

for bad in sorted(pathlib.Path("bad").glob("*.yaml")):
    run("lint", "--catalogue", str(bad))
for form in ("text", "json", "github"):
    run("lint", "--catalogue", "bad/everything-at-once.yaml", "--format", form)
    run("diff", "catalogue.yaml", "other.yaml", "--format", form)
    run("coverage", "loop.py", "--format", form)
run("generate")
run("schema")
pathlib.Path("shop/events/sale.py").write_text("by hand")
run("check")
for path in sorted([*pathlib.Path("shop").rglob("*.*"), *pathlib.Path("docs").rglob("*.*")]):
    print(path, path.read_bytes())
"""


def test_the_output_does_not_depend_on_the_hash_seed(small: Workspace) -> None:
    """What all commands print of good and bad catalogues, and what they write, are the same bytes under every seed."""
    shutil.copytree(Path(__file__).parent / "bad", small.root / "bad")
    small.write(SMALL.replace("EVENT_SALE", "EVENT_SHOP").replace("type: int", "type: str | None"), "other.yaml")
    small.write(
        "from shop.events.sale import *\ndef late(bus, day):\n    bus.trigger(EVENT_SALE_CLOSED, day)\n"
        "    bus.trigger(EVENT_SALE_OPENED, day)\n    bus.subscribe(EVENT_SALE_CUSTOMER_PRE, print)\n",
        "loop.py",
    )
    outputs = set()
    for seed in "012":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", EVERYTHING]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
        shutil.rmtree(small.root / "shop")
        shutil.rmtree(small.root / "docs")
    [output] = outputs
    assert output.count(b"error[") > 150
    assert b"was edited by hand" in output


def test_the_compiler_imports_neither_torch_nor_d9d(small: Workspace) -> None:
    """Generating loads no module of torch or d9d."""
    program = (
        "import sys\n"
        "from d9d_codegen.cli import main\n"
        "main(['generate'])\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'd9d'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=small.root, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_committed_outputs_are_as_the_catalogue_of_this_project_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` in this project finds nothing."""
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["check"]) == 0, capsys.readouterr().out
