"""A folder that someone else has prepared: nothing outside of it is read, written or removed, and nothing blocks."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d9d.__main__ import main
from d9d.loop.component.checkpoint.files import CheckpointError, write_json
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE
from d9d.loop.run import Trainer

from .test_checkpoint import every_step_of
from .toy_job import (
    configure_inference,
    configure_training,
    inference_config,
    steps_saved,
    training_config,
)

FILES = ["checkpoint.json", "state.json", "tensors.json", "__0_0.distcp"]

# What blocks fails soon.
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user outside of the checkpoints, with a file."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis").write_text("years of work")
    return folder


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three complete checkpoints, which no test changes."""
    folder = tmp_path_factory.mktemp("complete")
    every_step_of(CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=1000))
    return folder


@pytest.fixture
def newest(complete: Path, every_step: CheckpointingConfig) -> Path:
    """The newest of three complete checkpoints."""
    shutil.copytree(complete, every_step.folder)
    return every_step.folder / "step-3"


def is_untouched(precious: Path) -> bool:
    """Return whether the folder of the user is as it was."""
    return [path.name for path in precious.iterdir()] == ["thesis"] and (
        (precious / "thesis").read_text() == "years of work"
    )


def soft_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


def rename_in(path: Path, old: str, new: str) -> None:
    """Replace a text in a JSON file of a checkpoint, and correct the sizes in its manifest."""
    path.write_text(path.read_text().replace(json.dumps(old), json.dumps(new)))
    correct_sizes(path.parent)


def correct_sizes(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    for name in manifest["files"]:
        if (checkpoint / name).is_file():
            manifest["files"][name] = (checkpoint / name).stat().st_size
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))


def verify(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run `d9d checkpoint verify` on a damaged checkpoint, and return what it prints."""
    assert main(["checkpoint", "verify", str(checkpoint)]) == 1
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(soft_link, "a symbolic link"), (hard_link, "a hard link"), (pipe, "not a regular file")],
)
def test_the_lock_is_never_a_file_of_the_user(
    plant: Callable[[Path, Path], None], kind: str, every_step: CheckpointingConfig, precious: Path
) -> None:
    """The job stops and names `.lock`; the file that it leads to keeps its content."""
    every_step.folder.mkdir(parents=True)
    plant(every_step.folder / ".lock", precious / "thesis")

    with pytest.raises(CheckpointError) as caught:
        every_step_of(every_step)

    assert str(caught.value) == (
        f"{every_step.folder / '.lock'} is {kind}, so it is not the lock file of a d9d job: remove it and run again"
    )
    assert is_untouched(precious)


@pytest.mark.parametrize("name", [".staging-step-1", ".staging-removed-step-1", ".staging-"])
def test_a_link_with_the_name_of_a_staging_directory_is_removed_and_not_followed(
    name: str, every_step: CheckpointingConfig, precious: Path
) -> None:
    """The job runs, and what the link leads to stays."""
    every_step.folder.mkdir(parents=True)
    (every_step.folder / name).symlink_to(precious)

    assert every_step_of(every_step) == [0, 1, 2]
    assert is_untouched(precious)
    assert not list(every_step.folder.glob(".staging-*"))


def test_a_file_with_the_name_of_a_staging_directory_is_removed(every_step: CheckpointingConfig) -> None:
    """It keeps no job from saving."""
    every_step.folder.mkdir(parents=True)
    (every_step.folder / ".staging-step-1").write_text("")

    assert every_step_of(every_step) == [0, 1, 2]


def plant_before_step_2(trainer: Trainer, plant: Callable[[], None]) -> None:
    def act(ctx: Any) -> None:
        if ctx.stepper.current_step == 1:
            plant()

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, act)


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_save_replaces_a_link_with_the_name_of_its_checkpoint(
    target: str, every_step: CheckpointingConfig, precious: Path
) -> None:
    """It writes nothing through the link."""
    trainer = configure_training(training_config(every_step))
    link = every_step.folder / "step-2"
    plant_before_step_2(trainer, lambda: link.symlink_to(precious.with_name(target)))
    trainer.train()

    assert not link.is_symlink()
    assert Checkpoint(link).problem() is None
    assert is_untouched(precious)


def test_a_linked_checkpoint_is_not_removed_as_a_stale_one(
    newest: Path, every_step: CheckpointingConfig, tmp_path: Path
) -> None:
    """It is not one of this job's."""
    other = CheckpointingConfig(folder=tmp_path / "other", period_steps=None, num_to_keep=1)
    trainer = configure_training(training_config(other))
    plant_before_step_2(trainer, lambda: (other.folder / "step-1").symlink_to(newest.with_name("step-1")))
    trainer.train()

    assert (other.folder / "step-1").is_symlink()
    assert [checkpoint.problem() for checkpoint in Checkpoint.list_in(every_step.folder)] == [None] * 3


@pytest.mark.parametrize("name", FILES)
def test_a_linked_file_is_not_read(
    name: str, newest: Path, precious: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """`verify` names it, and the job resumes from the checkpoint before."""
    (newest / name).rename(precious.with_name(name))
    (newest / name).symlink_to(precious.with_name(name))

    assert name in verify(newest, capsys)
    configure_training(training_config(CheckpointingConfig(folder=newest.parent, period_steps=1))).train()
    assert f"step-3 cannot be loaded: its {'' if name == 'checkpoint.json' else 'file '}{name} " in caplog.text


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_blocks_nothing(
    name: str, newest: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither `ls` nor `verify` nor a job."""
    (newest / name).unlink()
    os.mkfifo(newest / name)

    assert main(["checkpoint", "ls", str(newest.parent)]) == 0
    assert name in verify(newest, capsys)
    configure_training(training_config(CheckpointingConfig(folder=newest.parent, period_steps=1))).train()
    assert "step-3 cannot be loaded" in caplog.text


@pytest.mark.parametrize("name", ["/etc/hostname", "../step-2/state.json", "..", "."])
def test_the_manifest_names_no_file_outside_of_the_checkpoint(
    name: str, newest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even to ask for its size."""
    path = newest / "checkpoint.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = (newest / name).stat().st_size
    path.write_text(json.dumps(manifest))

    assert verify(newest, capsys) == (
        f"{newest}: its checkpoint.json names the file {name!r}, which is not in its folder\n"
    )


@pytest.mark.parametrize("name", ["/etc/hostname", "../step-2/__0_0.distcp", ".."])
def test_the_index_names_no_file_outside_of_the_checkpoint(
    name: str, newest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` and a job refuse it."""
    rename_in(newest / "tensors.json", "__0_0.distcp", name)

    assert f"{name!r}, which is not in its folder" in verify(newest, capsys)
    with pytest.raises(CheckpointError, match=r"step-3 cannot be read .*which is not in its folder"):
        configure_training(training_config(CheckpointingConfig(folder=newest.parent))).train()


def test_the_index_names_no_link(newest: Path, precious: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the manifest does not mention it."""
    (newest / "__0_0.distcp").rename(precious.with_name("moved"))
    (newest / "more.distcp").symlink_to(precious.with_name("moved"))
    manifest = json.loads((newest / "checkpoint.json").read_text())
    del manifest["files"]["__0_0.distcp"]
    (newest / "checkpoint.json").write_text(json.dumps(manifest))
    rename_in(newest / "tensors.json", "__0_0.distcp", "more.distcp")

    assert "more.distcp: [Errno" in verify(newest, capsys)
    with pytest.raises(CheckpointError, match="step-3 cannot be read"):
        configure_training(training_config(CheckpointingConfig(folder=newest.parent))).train()


def test_a_linked_checkpoint_is_followed_only_where_it_is_named(
    newest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Inference takes the newest of a folder that is no link, and a link that `source_checkpoint` names itself."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copytree(newest.with_name("step-2"), folder / "step-2")
    (folder / "step-3").symlink_to(newest)

    configure_inference(inference_config(source_checkpoint=folder)).infer()
    assert "step-3 cannot be loaded: it is a symbolic link" in caplog.text
    assert caplog.messages[0].endswith(f"using {folder / 'step-2'} instead")
    configure_inference(inference_config(source_checkpoint=folder / "step-3")).infer()


@pytest.mark.parametrize("target", ["empty", "nowhere"])
def test_an_export_goes_through_no_link(target: str, newest: Path, tmp_path: Path) -> None:
    """It is refused before anything is written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "exported").symlink_to(tmp_path / target)

    trainer = configure_training(training_config())
    with pytest.raises(CheckpointError, match="exported is a link, or not a directory: choose a new or"):
        trainer.export(tmp_path / "exported")
    assert main(["checkpoint", "export", str(newest), str(tmp_path / "exported")]) == 1
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_among_exported_weights_blocks_nothing(name: str, tmp_path: Path) -> None:
    """The weights are refused with the path."""
    folder = tmp_path / "exported"
    configure_training(training_config()).export(folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    with pytest.raises(CheckpointError, match=f"cannot read the weights in {folder} "):
        configure_inference(inference_config(source_checkpoint=folder))


def test_json_is_written_to_new_files_only(precious: Path, tmp_path: Path) -> None:
    """So that no link is followed."""
    (tmp_path / "state.json").symlink_to(precious / "thesis")

    with pytest.raises(FileExistsError):
        write_json(tmp_path / "state.json", {})
    assert is_untouched(precious)


def test_a_foreign_folder_can_be_trained_in_after_all(newest: Path, every_step: CheckpointingConfig) -> None:
    """The tests above would prove little if no folder could be used."""
    shutil.rmtree(newest)

    assert every_step_of(every_step) == [2]
    assert steps_saved(every_step.folder) == [1, 2, 3]
