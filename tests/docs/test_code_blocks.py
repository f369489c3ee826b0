"""Every block of code in the README, in CONTRIBUTING and in the guide is checked as it is printed.

A comment above a block, which readers do not see, says what to do with it:

- `<!-- file: train.py -->`: a complete module. mypy accepts it, with strict settings and d9d's plugin, and it runs.
- `<!-- module: job.py -->`: a module that other blocks import by this name. mypy accepts it.
- `<!-- wrong: train.py -->`: mypy refuses it, with the output that the page shows after `$ mypy train.py`.
- `<!-- run in: project -->`: its commands are run, one after the other, in a folder of that kind.

Commands of other blocks are not run: their programs, subcommands, targets and options exist.
"""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from documents import ROOT, CodeBlock, code_blocks, guide_pages
from torch import nn
from torch.distributed.run import get_args_parser

from d9d import CheckpointingConfig, ReportingConfig, TrainingConfig, TrainingConfigurator, TrainTask
from d9d.__main__ import main

BIN = Path(sys.executable).parent
BLOCKS = [block for page in guide_pages() for block in code_blocks(page)]
LANGUAGES = {"console", "python", "toml", "yaml"}
# A script that the reader has written; it takes no options.
SCRIPTS_OF_READERS = {"train.py"}


def blocks_of(language: str) -> list[CodeBlock]:
    return [block for block in BLOCKS if block.language == language]


def file_of(block: CodeBlock) -> str:
    """Return the name under which a block of Python is kept; no two blocks share one."""
    kind, _, name = block.mark.partition(": ")
    return name if kind == "module" else f"{block.path.stem.lower()}_{name}"


def place_of(block: CodeBlock) -> str:
    return block.place


def test_each_block_has_a_language_and_is_checked() -> None:
    """A block of another language would be checked by nothing."""
    fences = sum(page.read_text(encoding="utf-8").count("```") for page in guide_pages())

    assert fences == 2 * len(BLOCKS)
    assert {block.place: block.language for block in BLOCKS if block.language not in LANGUAGES} == {}
    assert len(blocks_of("python")) > 10
    assert len(blocks_of("console")) > 10


def test_each_block_of_python_says_what_it_is() -> None:
    """A complete module, or a wrong one; the names differ, since mypy checks all together."""
    blocks = blocks_of("python")

    assert [block.place for block in blocks if not re.fullmatch(r"(file|module|wrong): \w+\.py", block.mark)] == []
    assert len({file_of(block) for block in blocks}) == len(blocks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All blocks of Python, each in a file."""
    folder = tmp_path_factory.mktemp("blocks")
    for block in blocks_of("python"):
        (folder / file_of(block)).write_text(block.code, encoding="utf-8")
    return folder


def errors_in(folder: Path) -> dict[str, str]:
    """Return what mypy reports of each file, in one run with the settings and the cache of the project."""
    run = subprocess.run(
        [BIN / "mypy", "--no-error-summary", "--hide-error-context", *sorted(folder.glob("*.py"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    found: dict[str, str] = {}
    for line in run.stdout.splitlines():
        path, _, text = line.partition(":")
        found[Path(path).name] = f"{found.get(Path(path).name, '')} {text}".strip()
    return found


def shown_errors(block: CodeBlock) -> str:
    """Return what the page of a block shows as the output of mypy, on one line."""
    kind, _, name = block.mark.partition(": ")
    outputs = [
        output
        for other in code_blocks(block.path, "console")
        for command, output in commands_of(other)
        if command == ["mypy", name]
    ]
    assert len(outputs) == (kind == "wrong"), block.place
    return " ".join(" ".join(outputs).split()).replace(f"{name}:", "")


def test_mypy_reports_of_each_block_what_the_page_shows(folder: Path) -> None:
    """Nothing for a complete module, and the very output for a wrong one, however its lines are broken."""
    found = {name: " ".join(text.split()) for name, text in errors_in(folder).items()}
    shown = {file_of(block): text for block in blocks_of("python") if (text := shown_errors(block))}

    assert len(shown) > 0
    assert found == shown


@pytest.mark.parametrize("block", [block for block in blocks_of("python") if "file: " in block.mark], ids=place_of)
def test_each_complete_block_runs(
    block: CodeBlock, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each complete code block runs as a script, or is identical to an example, which has separate tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file_of(block)])
    example = ROOT / "examples" / block.mark.removeprefix("file: ")
    if example.exists():
        assert block.code == example.read_text(encoding="utf-8")
    else:
        monkeypatch.syspath_prepend(folder)  # for the modules that it imports
        runpy.run_path(str(folder / file_of(block)), run_name="__main__")


def test_the_training_on_the_page_about_evaluations_ends_with_the_same_weights_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, as the page says; its model has dropout."""
    (block,) = [block for block in blocks_of("python") if file_of(block) == "evaluation_evaluation.py"]
    lines = block.code.splitlines()
    without = [line for line in lines if "evaluat" not in line]
    assert len(lines) - len(without) == 2  # the argument, and the call after the training
    monkeypatch.chdir(tmp_path)

    def weights_after(script: Sequence[str]) -> list[torch.Tensor]:
        path = tmp_path / "script.py"
        path.write_text("\n".join(script), encoding="utf-8")
        torch.manual_seed(0)
        (model,) = runpy.run_path(str(path))["trainer"].modules
        return [*model.state_dict().values()]

    for own, other in zip(weights_after(lines), weights_after(without), strict=True):
        assert torch.equal(own, other)


def test_the_script_for_all_gpus_runs_under_torchrun(folder: Path, tmp_path: Path) -> None:
    """As the page says below it."""
    (block,) = [block for block in blocks_of("python") if block.mark == "file: all_gpus.py"]
    run = subprocess.run(
        [BIN / "torchrun", "--standalone", "--nproc-per-node", "2", folder / file_of(block)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert "2 processes, data_parallel_shard=2;" in run.stderr


def test_blocks_of_tests_pass(folder: Path) -> None:
    """The blocks that are test modules pass, run by pytest."""
    files = [folder / file_of(block) for block in blocks_of("python") if block.mark.startswith("file: test_")]
    run = subprocess.run(
        [BIN / "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, *files],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(files) == 3
    assert run.returncode == 0, run.stdout
    assert "4 passed" in run.stdout


@pytest.mark.parametrize("block", blocks_of("toml"), ids=place_of)
def test_each_block_of_toml_is_read(block: CodeBlock) -> None:
    """And has tables."""
    assert tomllib.loads(block.code)


@pytest.mark.parametrize("block", blocks_of("yaml"), ids=place_of)
def test_each_block_of_yaml_is_read(block: CodeBlock) -> None:
    """And has keys."""
    assert isinstance(yaml.safe_load(block.code), dict)


def commands_of(block: CodeBlock) -> Iterator[tuple[list[str], str]]:
    """Yield the commands of a block, each with the output that is shown below it."""
    assert block.code.startswith("$ "), f"{block.place} does not begin with a command"
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield shlex.split(command, comments=True), output


@cache
def help_of(*program: str) -> str:
    """Return what a program says of its options."""
    run = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout


def verify_options(options: Sequence[str], text: str) -> None:
    """Require that a program knows all options that it is given."""
    for option in options:
        if option.startswith("--"):
            assert re.search(rf"(?<!\S){re.escape(option.partition('=')[0])}\b", text), f"there is no option {option}"


def verify_script(script: str, *arguments: str) -> None:
    if (ROOT / script).is_file():
        verify_options(arguments, help_of(sys.executable, script) if arguments else "")
    else:
        assert script in SCRIPTS_OF_READERS | {block.mark.partition(": ")[2] for block in blocks_of("python")}
        assert arguments == ()


def verify_make(*arguments: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {argument for argument in arguments if "=" not in argument} <= targets
    jobs = [job for argument in arguments if "=" in argument for job in argument.removeprefix("JOBS=").split()]
    if jobs:
        listed = subprocess.run([sys.executable, ".ci/matrix.py", "--list"], cwd=ROOT, check=True, capture_output=True)
        assert set(jobs) <= set(listed.stdout.decode().split())


def verify_torchrun(*arguments: str) -> None:
    options = get_args_parser().parse_args(arguments)
    verify_script(options.training_script, *options.training_script_args)


def verify_pip(*arguments: str) -> None:
    """The names of packages and extras are checked with the wheel."""
    assert arguments[0] == "install"
    verify_options(arguments, help_of(sys.executable, "-m", "pip", "install"))


def verify_bin(program: str, *arguments: str) -> None:
    """Require a command of the environment, its subcommands and its options."""
    words: list[str] = []
    for argument in arguments:
        if re.fullmatch(r"[a-z]+", argument) and re.search(rf"\b{argument}\b", help_of(str(BIN / program), *words)):
            words.append(argument)
        else:
            break
    assert words or program in {"mypy", "pytest"}
    verify_options(arguments, help_of(str(BIN / program), *words))


VERIFIERS: dict[str, Callable[..., None]] = {
    "d9d": lambda *arguments: verify_bin("d9d", *arguments),
    "d9d-catalogue": lambda *arguments: verify_bin("d9d-catalogue", *arguments),
    ".venv/bin/pytest": lambda *arguments: verify_bin("pytest", *arguments),
    "make": verify_make,
    "mypy": verify_script,  # what it says is compared with the page
    "pip": verify_pip,
    "python": verify_script,
    "torchrun": verify_torchrun,
}


@pytest.mark.parametrize("block", [block for block in blocks_of("console") if not block.mark], ids=place_of)
def test_each_command_exists(block: CodeBlock) -> None:
    """Programs, files, subcommands, targets and options."""
    for (program, *arguments), output in commands_of(block):
        assert not output or program == "mypy", "output is shown only where a test compares it"
        VERIFIERS[program](*arguments)


def make_runs(folder: Path) -> None:
    """Save what the smallest example saves, of a smaller model."""
    TrainingConfigurator(
        config=TrainingConfig(
            total_steps=1,
            global_batch_size=1,
            device="cpu",
            checkpointing=CheckpointingConfig(folder=folder / "runs" / "smallest"),
            reporting=ReportingConfig(json_lines=None),
        ),
        task=MeanTask(),
        model_provider=Mean(),
        dataset_provider=[{"inputs": 1.0}],
    ).configure().train()


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, inputs: object) -> object:
        return self.linear.weight.sum() + self.linear.bias.sum()


class MeanTask(TrainTask):
    """Trains a model that returns its loss."""


GIT = ["git", "-c", "user.name=trial", "-c", "user.email=trial@example.org"]


def make_project(folder: Path) -> None:
    """Make a project without a catalogue, under git."""
    (folder / "pyproject.toml").write_text('[project]\nname = "trial"\nversion = "0.1.0"\n', encoding="utf-8")
    (folder / "trial").mkdir()
    (folder / "trial" / "__init__.py").write_text('"""A trial."""\n', encoding="utf-8")
    subprocess.run([*GIT, "init", "--quiet"], cwd=folder, check=True)


def commit_all(folder: Path) -> None:
    subprocess.run([*GIT, "add", "--all"], cwd=folder, check=True)
    subprocess.run([*GIT, "commit", "--quiet", "--message", "trial", "--allow-empty"], cwd=folder, check=True)


def run_blocks(kind: str, folder: Path, after_each: Callable[[Path], None] = lambda _: None) -> None:
    """Run the commands of all blocks of a kind, one after the other."""
    blocks = [block for block in blocks_of("console") if block.mark == f"run in: {kind}"]
    assert blocks
    for block in blocks:
        for (program, *arguments), output in commands_of(block):
            assert not output, "output is shown only where a test compares it"
            if program == "d9d":  # in this process, which has loaded torch
                with contextlib.chdir(folder):
                    assert main(arguments) == 0, block.place
                continue
            run = subprocess.run([BIN / program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            assert run.returncode == 0, f"{block.place}: {run.stdout}{run.stderr}"
        after_each(folder)


def test_commands_about_checkpoints_succeed(tmp_path: Path) -> None:
    """Where the smallest example has been run."""
    make_runs(tmp_path)

    run_blocks("runs", tmp_path)


def test_commands_about_a_configuration_succeed(tmp_path: Path) -> None:
    """In a folder with the files of the page."""
    page = ROOT / "docs" / "guide" / "configuration.md"
    for language, name in (("python", "train.py"), ("yaml", "base.yaml")):
        (block,) = code_blocks(page, language)
        (tmp_path / name).write_text(block.code, encoding="utf-8")

    run_blocks("configuration", tmp_path)


def test_commands_about_a_project_succeed(tmp_path: Path) -> None:
    """One block after the other, with a commit after each."""
    make_project(tmp_path)

    run_blocks("project", tmp_path, commit_all)


def test_commands_about_this_repository_succeed() -> None:
    """As they are, in its root."""
    run_blocks("repository", ROOT)


def test_each_marked_block_of_commands_is_run() -> None:
    """By one of the tests above."""
    marks = {block.mark for block in blocks_of("console")}

    assert marks <= {"", "run in: configuration", "run in: runs", "run in: project", "run in: repository"}
