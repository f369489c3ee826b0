"""The command `d9d checkpoint`."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from d9d.__main__ import main
from d9d.loop.config import CheckpointingConfig

from .test_checkpoint import every_step_of, truncate
from .toy_job import configure_training, same_tensors, training_config, weights_of


def test_ls_prints_a_table(every_step: CheckpointingConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Newest first: step, time, size, mesh, and whether the checkpoint is complete."""
    every_step_of(every_step)
    truncate(every_step.folder / "step-2" / "state.json")

    assert main(["checkpoint", "ls", str(every_step.folder)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()

    assert head.split() == ["step", "time", "size", "mesh", "evaluations", "state"]
    time, size = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", r"\d+\.\d KB"
    for row, step, state in zip(rows, (3, 2, 1), ("complete", "its file state.json has .*", "complete"), strict=True):
        assert re.fullmatch(rf"{step} +{time} +{size} +one process +{state}", row)


def test_verify_accepts_complete_checkpoints(
    every_step: CheckpointingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """All checkpoints of a folder, or one."""
    every_step_of(every_step)

    assert main(["checkpoint", "verify", str(every_step.folder)]) == 0
    assert main(["checkpoint", "verify", str(every_step.folder / "step-1")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{every_step.folder / f'step-{step}'}: complete and readable" for step in (3, 2, 1, 1)
    ]


def test_verify_reads_every_value(every_step: CheckpointingConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """A single flipped bit is found."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    weight = weights_of(trainer.modules[0])["0.weight"]
    file = every_step.folder / "step-3" / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 1
    file.write_bytes(content)

    assert main(["checkpoint", "verify", str(every_step.folder)]) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(
        f"{every_step.folder / 'step-3'}: the tensor 'model/0.weight' in __0_0.distcp: the checksum of "
    )
    assert len(others) == 2


def test_verify_names_what_is_missing(every_step: CheckpointingConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit status is 1."""
    every_step_of(every_step)
    (every_step.folder / "step-2" / "tensors.json").unlink()

    assert main(["checkpoint", "verify", str(every_step.folder / "step-2")]) == 1
    assert capsys.readouterr().out == f"{every_step.folder / 'step-2'}: its file tensors.json is missing\n"


@pytest.mark.parametrize("name", ["", "step-3"])
def test_export_needs_no_model(
    name: str, every_step: CheckpointingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes one checkpoint, or the newest complete one of a folder."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    to = tmp_path / "exported"

    assert main(["checkpoint", "export", str(every_step.folder / name), str(to)]) == 0
    assert capsys.readouterr().out == f"exported the weights of {every_step.folder / 'step-3'} to {to}\n"
    assert same_tensors(load_file(to / "model.safetensors"), weights_of(trainer.modules[0]))


def test_export_applies_a_mapping_and_adds_files(
    every_step: CheckpointingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping is imported from the current folder."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    (tmp_path / "naming.py").write_text(
        "import d9d\nMAPPING = d9d.WeightMapping(rules=[d9d.WeightRule('net.**', '**')])\nOTHER = 1\n"
    )
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    export = ["checkpoint", "export", str(every_step.folder), "to", "--mapping"]

    assert main([*export, "naming:MAPPING", "--config", "config.json", "--name", "net"]) == 0
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["config.json", "net.safetensors"]
    weights = {f"net.{name}": value for name, value in weights_of(trainer.modules[0]).items()}
    assert same_tensors(load_file(tmp_path / "to" / "net.safetensors"), weights)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "naming:NONE",
            "--mapping naming:NONE cannot be imported (module 'naming' has no attribute 'NONE'): pass ",
        ),
        ("naming:OTHER", "--mapping naming:OTHER is a int: name a d9d.WeightMapping"),
        (
            "nowhere:MAPPING",
            "--mapping nowhere:MAPPING cannot be imported (No module named 'nowhere'): pass ",
        ),
    ],
)
def test_what_is_no_mapping_is_refused(
    target: str, message: str, every_step: CheckpointingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was found, and what to pass."""
    every_step_of(every_step)
    (tmp_path / "naming.py").write_text("OTHER = 1\n")
    sys.modules.pop("naming", None)

    with contextlib.chdir(tmp_path):
        assert main(["checkpoint", "export", str(every_step.folder), "to", "--mapping", target]) == 1
    assert capsys.readouterr().err.startswith(f"d9d: {message}")


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["export", "to"]])
def test_a_folder_without_checkpoints_is_an_error(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the path and the remedy."""
    name, *rest = command

    assert main(["checkpoint", name, str(tmp_path), *rest]) == 1
    assert capsys.readouterr().err == (
        f"d9d: {tmp_path} contains no checkpoint: name one, or the folder that a job saves into\n"
    )


def test_an_incomplete_checkpoint_is_not_exported(
    every_step: CheckpointingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names what is missing, and nothing is written."""
    every_step_of(every_step)
    step = every_step.folder / "step-3"
    (step / "state.json").unlink()

    assert main(["checkpoint", "export", str(step), str(tmp_path / "exported")]) == 1
    assert capsys.readouterr().err == f"d9d: {step} cannot be exported: its file state.json is missing\n"
    assert not (tmp_path / "exported").exists()


def test_the_command_has_a_help_text() -> None:
    """`python -m d9d checkpoint --help` describes the command."""
    run = subprocess.run(
        [sys.executable, "-m", "d9d", "checkpoint", "--help"], check=True, capture_output=True, text=True
    )

    for word in ("ls", "verify", "export", "safetensors"):
        assert word in run.stdout


def test_checkpoints_are_listed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With all that the table shows, newest first."""
    folder = tmp_path / "checkpoints"
    configure_training(training_config(CheckpointingConfig(folder=folder, period_steps=2))).train()
    capsys.readouterr()

    assert main(["checkpoint", "ls", "--format", "json", str(folder)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["step"], each["path"], each["problem"]) for each in listed] == [
        (step, str((folder / f"step-{step}").resolve()), None) for step in (3, 2)
    ]
    assert all(each["size_bytes"] > 0 and each["time"] for each in listed)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["checkpoint", "ls", "--help"]])
def test_what_needs_no_checkpoint_loads_no_torch(arguments: list[str]) -> None:
    """Importing it takes seconds."""
    script = (
        "import sys\nfrom d9d.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    assert "d9d" in run.stdout
