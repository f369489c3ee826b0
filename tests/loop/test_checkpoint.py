"""A checkpoint appears when it is complete, and an incomplete one is never loaded silently."""

import datetime as dt
import importlib.resources
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import FORMAT, Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE

from .toy_job import configure_training, same_tensors, steps_saved, training_config, weights_of


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Make each write beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def every_step_of(trainer_config: CheckpointingConfig) -> list[int]:
    """Train three steps, and return which of them ran."""
    steps: list[int] = []
    trainer = configure_training(training_config(trainer_config))
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: steps.append(ctx.stepper.current_step))
    trainer.train()
    return steps


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def garble(path: Path) -> None:
    path.write_text("{")


def make_list(path: Path) -> None:
    path.write_text("[]")


def future_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))


DAMAGES = [
    pytest.param("checkpoint.json", Path.unlink, "its checkpoint.json cannot be read", id="no-manifest"),
    pytest.param("checkpoint.json", garble, "its checkpoint.json cannot be read", id="garbled-manifest"),
    pytest.param("checkpoint.json", make_list, "its checkpoint.json cannot be read", id="manifest-of-something-else"),
    pytest.param("state.json", Path.unlink, "its file state.json is missing", id="no-metadata"),
    pytest.param("state.json", truncate, "its file state.json has ", id="short-metadata"),
    pytest.param("tensors.json", Path.unlink, "its file tensors.json is missing", id="no-index"),
    pytest.param("__0_0.distcp", Path.unlink, "its file __0_0.distcp is missing", id="no-tensors"),
    pytest.param("__0_0.distcp", truncate, "its file __0_0.distcp has ", id="short-tensors"),
    pytest.param("__0_0.distcp", lengthen, "its file __0_0.distcp has ", id="long-tensors"),
]


def test_the_manifest_lists_what_a_checkpoint_contains(every_step: CheckpointingConfig) -> None:
    """The manifest lists files, step, settings and versions."""
    every_step_of(every_step)
    checkpoint = Checkpoint(every_step.folder / "step-2")
    manifest = checkpoint.manifest()

    assert checkpoint.num_steps == manifest["num_steps"] == 2
    assert set(manifest["files"]) | {"checkpoint.json"} == {path.name for path in checkpoint.path.iterdir()}
    assert set(manifest["versions"]) == {"d9d", "torch", "python"}
    assert manifest["settings"]["seed"] == 0
    assert checkpoint.problem() is None


def test_the_metadata_of_the_state_is_plain_json(every_step: CheckpointingConfig) -> None:
    """Nothing in it is pickled; tensors are in other files."""
    every_step_of(every_step)

    metadata = json.loads((every_step.folder / "step-1" / "state.json").read_text())

    assert [name for name, _ in metadata["dict"]] == [
        "stepper",
        "model",
        "optimizer",
        "lr_scheduler",
        "requires_grad",
        "task",
        "model_provider",
        "random",
    ]


def test_a_part_of_the_state_can_be_read_alone(every_step: CheckpointingConfig) -> None:
    """Weights can be read without the moments of the optimizer."""
    trainer = configure_training(training_config(every_step))
    trainer.train()

    state = Checkpoint(every_step.folder / "step-3").read("model")

    assert set(state) == {"model"}
    assert same_tensors(state["model"], weights_of(trainer.modules[0]))


def test_each_period_and_the_last_step_are_saved(every_step: CheckpointingConfig) -> None:
    """A run of five steps that saves every second step saves steps 2, 4 and 5."""
    checkpointing = every_step.model_copy(update={"period_steps": 2})
    configure_training(training_config(checkpointing, total_steps=5)).train()

    assert steps_saved(every_step.folder) == [2, 4, 5]


@pytest.mark.parametrize("num_to_keep", [1, 2, 3])
def test_only_the_newest_checkpoints_are_kept(num_to_keep: int, every_step: CheckpointingConfig) -> None:
    """Older ones are removed after each save."""
    checkpointing = every_step.model_copy(update={"num_to_keep": num_to_keep})
    seen: list[list[int]] = []
    trainer = configure_training(training_config(checkpointing, total_steps=5))
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: seen.append(steps_saved(checkpointing.folder)))
    trainer.train()

    assert [*seen, steps_saved(checkpointing.folder)] == [
        list(range(max(1, step - num_to_keep + 1), step + 1)) for step in range(6)
    ]


def test_nothing_is_written_without_checkpointing(tmp_path: Path) -> None:
    """Training without checkpointing writes no file."""
    configure_training(training_config()).train()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_bytes", [0, 100, 3000, 8000])
def test_a_failed_save_leaves_no_checkpoint(num_bytes: int, every_step: CheckpointingConfig) -> None:
    """With space on the disk again, the run resumes from the earlier one."""
    trainer = configure_training(training_config(every_step))

    expected = r"could not write checkpoint step-1 to .*File too large.*earlier checkpoints are intact"
    with pytest.raises(CheckpointError, match=expected), largest_file(num_bytes):
        trainer.train()

    assert steps_saved(every_step.folder) == []
    assert every_step_of(every_step) == [0, 1, 2]
    assert not list(every_step.folder.glob(".staging-*"))


@pytest.mark.parametrize("name", [".staging-step-3", ".staging-removed-step-1", ".staging-step-1"])
def test_staging_directories_of_killed_jobs_are_removed(name: str, every_step: CheckpointingConfig) -> None:
    """Staging directories are removed and never loaded."""
    leftover = every_step.folder / name
    leftover.mkdir(parents=True)
    (leftover / "checkpoint.json").write_text("{}")

    assert every_step_of(every_step) == [0, 1, 2]
    assert sorted(path.name for path in every_step.folder.iterdir()) == ["step-1", "step-2", "step-3"]


def test_a_finished_run_removes_staging_directories_of_killed_jobs(every_step: CheckpointingConfig) -> None:
    """A finished run that is run again removes them, although it saves nothing."""
    every_step_of(every_step)
    shutil.copytree(every_step.folder / "step-3", every_step.folder / ".staging-removed-step-0")

    assert every_step_of(every_step.model_copy(update={"num_to_keep": 2})) == []
    assert sorted(path.name for path in every_step.folder.iterdir()) == ["step-2", "step-3"]


@pytest.mark.parametrize(("name", "damage", "defect"), DAMAGES)
def test_an_incomplete_newest_checkpoint_is_skipped_with_a_warning(
    name: str,
    damage: Callable[[Path], None],
    defect: str,
    every_step: CheckpointingConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run resumes from the one before, and ends as it would have."""
    first = configure_training(training_config(every_step))
    first.train()
    damage(every_step.folder / "step-3" / name)

    again = configure_training(training_config(every_step))
    again.train()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert len(warnings) == 1
    assert f"step-3 cannot be loaded: {defect}" in warnings[0]
    assert warnings[0].endswith(f"; using {every_step.folder / 'step-2'} instead")
    assert same_tensors(weights_of(again.modules[0]), weights_of(first.modules[0]))
    assert Checkpoint(every_step.folder / "step-3").problem() is None


def test_a_checkpoint_of_a_newer_format_is_neither_skipped_nor_replaced(
    every_step: CheckpointingConfig,
) -> None:
    """The error names the version to use; loading an older checkpoint would silently lose steps."""
    every_step_of(every_step)
    future_format(every_step.folder / "step-3" / "checkpoint.json")

    with pytest.raises(CheckpointError) as caught:
        every_step_of(every_step)

    version = Checkpoint(every_step.folder / "step-3").manifest()["versions"]["d9d"]
    assert str(caught.value) == (
        f"cannot resume from {every_step.folder / 'step-3'}: it has format {FORMAT + 1}, and this version of d9d reads "
        f"formats {FORMAT - 1} and {FORMAT}: use d9d {version}, which wrote it, or another folder"
    )
    assert steps_saved(every_step.folder) == [1, 2, 3]


def test_the_manifest_describes_the_job(every_step: CheckpointingConfig) -> None:
    """The manifest has time, versions, mesh, settings and events, with digests that differ between jobs."""
    every_step_of(every_step)
    configure_training(training_config(every_step.model_copy(update={"folder": every_step.folder / "other"}))).train()
    manifest = Checkpoint(every_step.folder / "step-1").manifest()
    other = Checkpoint(every_step.folder / "other" / "step-1").manifest()
    index = json.loads((importlib.resources.files("d9d.loop.event.catalogue") / "index.json").read_text())

    assert dt.datetime.fromisoformat(manifest["time"]) <= dt.datetime.now(dt.UTC)
    assert manifest["num_ranks"] == manifest["mesh"]["data_parallel_shard"] == 1
    assert manifest["configuration"]["seed"] == 0
    assert manifest["catalogue_digest"] in index["digests"]
    assert manifest["catalogue_digest"] == other["catalogue_digest"]
    assert manifest["configuration_digest"] != other["configuration_digest"]


def test_changed_settings_that_may_change_are_logged(
    every_step: CheckpointingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line that names the resumed checkpoint also lists the changed settings."""
    caplog.set_level("INFO", logger="d9d")
    every_step_of(every_step)
    every_step_of(every_step.model_copy(update={"num_to_keep": 2}))

    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("resumed from")]
    assert line.startswith(f"resumed from {every_step.folder / 'step-3'}\n  configuration_digest is '")
    assert line.endswith("\n  configuration/checkpointing/num_to_keep is 2 here and 1000 in the checkpoint")


def test_a_run_without_a_complete_checkpoint_stops(every_step: CheckpointingConfig) -> None:
    """It does not start fresh over them: the error names each with its problem."""
    every_step_of(every_step)
    for step in (1, 2, 3):
        (every_step.folder / f"step-{step}" / "state.json").unlink()
    files = sorted(every_step.folder.rglob("*"))

    with pytest.raises(CheckpointError) as caught:
        every_step_of(every_step)
    message = str(caught.value)

    assert message.startswith(f"no checkpoint in {every_step.folder} can be loaded:")
    for step in (1, 2, 3):
        assert f"{every_step.folder / f'step-{step}'} cannot be loaded: its file state.json is missing" in message
    assert message.endswith("Restore one of them, or remove them to start fresh.")
    assert sorted(every_step.folder.rglob("*")) == files


def test_incomplete_checkpoints_do_not_count_as_kept(every_step: CheckpointingConfig) -> None:
    """Keeping N checkpoints means N that can be loaded."""
    every_step_of(every_step)
    (every_step.folder / "step-3" / "state.json").unlink()

    every_step_of(every_step.model_copy(update={"num_to_keep": 2}))

    assert [Checkpoint(every_step.folder / f"step-{step}").problem() for step in (2, 3)] == [None, None]


def test_folders_with_other_names_are_left_alone(every_step: CheckpointingConfig) -> None:
    """Folders that are not named like checkpoints are neither loaded nor removed."""
    for name in ("step-old", "notes", "step-"):
        (every_step.folder / name).mkdir(parents=True)

    assert every_step_of(every_step) == [0, 1, 2]
    assert sorted(path.name for path in every_step.folder.iterdir()) == [
        "notes",
        "step-",
        "step-1",
        "step-2",
        "step-3",
        "step-old",
    ]


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    """The checkpoint of step 10 is newer than that of step 9."""
    for step in (9, 10, 100):
        Checkpoint.write(tmp_path, step, {"value": torch.tensor(step)}, {})

    assert [checkpoint.num_steps for checkpoint in Checkpoint.list_in(tmp_path)] == [100, 10, 9]
