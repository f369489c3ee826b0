"""An inference run that resumes with more samples, or with other sizes of batches."""

import json
from pathlib import Path
from typing import Any

import pytest

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, ConfigurationError, DataLoadingConfig, ResumeConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_DATA_LOADER_READY,
    EVENT_INFERENCE_STEP_PRE,
    EventDataLoaderReadyContext,
    EventStepContext,
)

from .toy_job import (
    StoppedError,
    ToyDataset,
    ToyInferenceTask,
    configure_inference,
    inference_config,
    steps_saved,
)

MORE_SAMPLES = ResumeConfig(allow=["num_samples"])


def saving_to(folder: Path) -> CheckpointingConfig:
    return CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=100)


def infer(folder: Path, num_samples: int = 12, *, stop_in: int | None = None, **settings: Any) -> ToyInferenceTask:
    """Run inference to its end, or until a step raises."""
    task = ToyInferenceTask()
    run = configure_inference(
        inference_config(saving_to(folder), **settings), task=task, dataset=ToyDataset(num_samples)
    )

    def stop(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == stop_in:
            raise StoppedError

    run.event_bus.subscribe(EVENT_INFERENCE_STEP_PRE, stop)
    if stop_in is None:
        run.infer()
    else:
        with pytest.raises(StoppedError):
            run.infer()
    return task


@pytest.mark.parametrize("num_samples", [9, 10, 12, 13, 20])
@pytest.mark.parametrize("stop_in", [None, 2])
def test_new_samples_follow_the_old_ones(num_samples: int, stop_in: int | None, tmp_path: Path) -> None:
    """Whether the run was complete, with a last step that was not full, or was interrupted."""
    infer(tmp_path, 9, stop_in=stop_in)

    task = infer(tmp_path, num_samples, resume=MORE_SAMPLES)

    assert task.indices == [*range(num_samples)]
    assert len(task.predictions) == num_samples


def test_predictions_do_not_depend_on_when_samples_were_added(tmp_path: Path) -> None:
    """They are those of a run that had all samples from the start."""
    infer(tmp_path / "grown", 9)
    grown = infer(tmp_path / "grown", 20, resume=MORE_SAMPLES)
    whole = infer(tmp_path / "whole", 20)

    # The generator of the features draws in blocks, so datasets of two sizes do not share their first samples.
    assert grown.predictions[9:] == pytest.approx(whole.predictions[9:])


def test_a_dataset_that_has_grown_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    """It could be another one."""
    infer(tmp_path, 9)

    with pytest.raises(
        CheckpointError,
        match=r"was saved by a run that has another dataset:\n  num_samples is 12 here and 9 in the checkpoint\n"
        r"Restore these settings, or allow .* resume=ResumeConfig\(allow=\['num_samples'\]\)",
    ):
        infer(tmp_path, 12)


def test_a_dataset_may_not_lose_samples_that_were_processed(tmp_path: Path) -> None:
    """It is not the same dataset."""
    infer(tmp_path, 12, stop_in=2)

    assert infer(tmp_path, 9, stop_in=2, resume=MORE_SAMPLES).indices == [*range(8)]
    with pytest.raises(ConfigurationError, match="the dataset has 7 samples, and the checkpoint was saved after 8"):
        infer(tmp_path, 7, resume=MORE_SAMPLES)


@pytest.mark.parametrize("global_batch_size", [2, 6, 8, 24])
@pytest.mark.parametrize("stop_in", [None, 1, 2])
def test_another_global_batch_size_continues_at_the_first_sample_that_is_left(
    global_batch_size: int, stop_in: int | None, tmp_path: Path
) -> None:
    """Each sample is processed once, and the run has the steps that are left."""
    done = infer(tmp_path, stop_in=stop_in).indices

    task = infer(tmp_path, global_batch_size=global_batch_size)

    assert task.indices == [*range(12)]
    num_before = 3 if stop_in is None else stop_in
    assert steps_saved(tmp_path)[-1] == num_before - (-(12 - len(done)) // global_batch_size)
    assert infer(tmp_path, global_batch_size=global_batch_size).indices == [*range(12)]


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_another_micro_batch_size_is_adopted(
    micro_batch_size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line of the log says so."""
    infer(tmp_path, stop_in=2)

    with caplog.at_level("INFO"):
        task = infer(tmp_path, micro_batch_size=micro_batch_size)

    assert task.indices == [*range(12)]
    assert f"adopted micro_batch_size={micro_batch_size}, which was 2 in the checkpoint" in caplog.messages


def test_a_run_may_change_several_times(tmp_path: Path) -> None:
    """Each sample is still processed once, also after interruptions in between."""
    infer(tmp_path, 10)
    infer(tmp_path, 25, stop_in=4, global_batch_size=6, resume=MORE_SAMPLES)
    infer(tmp_path, 25, stop_in=5, global_batch_size=6)
    task = infer(tmp_path, 31, global_batch_size=2, micro_batch_size=1, resume=MORE_SAMPLES)

    assert task.indices == [*range(31)]
    lineage = Checkpoint(tmp_path / f"step-{steps_saved(tmp_path)[-1]}").manifest()["lineage"]
    assert [entry["changes"].get("num_samples") for entry in lineage] == [[10, 25], [25, 31]]


def test_a_checkpoint_without_data_position_is_resumed_by_its_settings(tmp_path: Path) -> None:
    """As earlier versions wrote them, here with a last step that was not full."""
    infer(tmp_path, 10)
    path = tmp_path / "step-3" / "checkpoint.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["data_position"]
    path.write_text(json.dumps(manifest), encoding="utf-8")

    assert infer(tmp_path, 13, resume=MORE_SAMPLES).indices == [*range(13)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_first_look_at_the_data_does_not_matter(num_workers: int, tmp_path: Path) -> None:
    """A handler that reads a batch before the run resumes leaves no plan of the old steps."""
    infer(tmp_path, 10)

    def look(bus: EventBus) -> None:
        def read(ctx: EventDataLoaderReadyContext) -> None:
            assert len(next(iter(ctx.data_loader))["index"]) == 2

        bus.subscribe(EVENT_INFERENCE_DATA_LOADER_READY, read)

    task = ToyInferenceTask(look)
    config = inference_config(
        saving_to(tmp_path), resume=MORE_SAMPLES, data_loading=DataLoadingConfig(num_workers=num_workers)
    )
    configure_inference(config, task=task, dataset=ToyDataset(21)).infer()

    assert task.indices == [*range(21)]
