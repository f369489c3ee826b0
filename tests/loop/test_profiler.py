"""The profiler records windows of steps, and each rank writes one trace per window."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, supported_activities

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.profiler import Profiler, _activities
from d9d.loop.config import CheckpointingConfig, ConfigurationError, ProfilingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext
from d9d.loop.run import Trainer

from .toy_job import (
    StoppedError,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)

ENDING = ".rank-0.pt.trace.json.gz"


def profiling(folder: Path, **settings: Any) -> ProfilingConfig:
    """Skip one step, warm up in one, and record two."""
    return ProfilingConfig(**{"folder": folder, "wait_steps": 1, "warmup_steps": 1, "active_steps": 2, **settings})


def windows_in(folder: Path) -> list[str]:
    """Return the names of the windows whose traces are in a folder; other files keep their full names."""
    return sorted(path.name.removesuffix(ENDING) for path in folder.iterdir())


def labels_in(path: Path) -> set[str]:
    """Return the labels of the steps in a trace."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    return {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep")}


def fail_in(trainer: Trainer, step: int) -> None:
    """Subscribe a handler that raises at the end of a step."""

    def fail(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == step:
            raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, fail)


def test_each_window_has_a_trace_named_after_its_steps(tmp_path: Path) -> None:
    """Each of two cycles records its last two steps; nothing is recorded after the second cycle."""
    configure_training(training_config(total_steps=14, profiling=profiling(tmp_path, num_cycles=2))).train()

    assert windows_in(tmp_path) == ["step-2-to-3", "step-6-to-7"]


def test_a_trace_contains_the_steps_of_its_name(tmp_path: Path) -> None:
    """A trace contains the labels of the steps in its name, and their operators."""
    configure_training(training_config(total_steps=6, profiling=profiling(tmp_path))).train()
    trace = tmp_path / f"step-2-to-3{ENDING}"

    assert labels_in(trace) == {"ProfilerStep#2", "ProfilerStep#3"}
    with gzip.open(trace, "rt", encoding="utf-8") as file:
        assert "aten::addmm" in file.read()


def test_inference_is_recorded_too(tmp_path: Path) -> None:
    """Inference writes traces with the same settings as training."""
    configure_inference(inference_config(profiling=profiling(tmp_path, active_steps=1))).infer()

    assert windows_in(tmp_path) == ["step-2-to-2"]


@pytest.mark.parametrize(("total_steps", "expected"), [(3, ["step-2-to-2"]), (4, ["step-2-to-3"])])
def test_a_window_that_the_end_of_the_loop_cuts_short_is_written(
    total_steps: int, expected: list[str], tmp_path: Path
) -> None:
    """A shortened window is named after the steps that ran."""
    configure_training(training_config(total_steps=total_steps, profiling=profiling(tmp_path))).train()

    assert windows_in(tmp_path) == expected


def test_a_window_without_a_recorded_step_has_no_trace(tmp_path: Path) -> None:
    """A run that ends before its second window starts writes only one trace."""
    configure_training(training_config(total_steps=6, profiling=profiling(tmp_path, num_cycles=2))).train()

    assert windows_in(tmp_path) == ["step-2-to-3"]


def test_a_resumed_run_counts_its_own_steps_and_names_traces_after_the_steps_of_the_job(
    every_step: CheckpointingConfig, tmp_path: Path
) -> None:
    """The warm-up of a resumed process starts with its first step; trace names count the steps of the whole job."""
    config = training_config(every_step, total_steps=10)
    stopped = configure_training(config)
    fail_in(stopped, 4)
    with pytest.raises(StoppedError):
        stopped.train()

    folder = tmp_path / "traces"
    configure_training(config.model_copy(update={"profiling": profiling(folder)})).train()

    assert windows_in(folder) == ["step-6-to-7"]
    assert labels_in(folder / f"step-6-to-7{ENDING}") == {"ProfilerStep#6", "ProfilerStep#7"}


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_the_error_of_a_step_is_the_error_that_users_see(step: int, tmp_path: Path) -> None:
    """An error in any phase of the profiler propagates unchanged, and the next run in the process records again."""
    trainer = configure_training(training_config(total_steps=6, profiling=profiling(tmp_path)))
    fail_in(trainer, step)
    with pytest.raises(StoppedError):
        trainer.train()

    assert windows_in(tmp_path) == (["step-2-to-3"] if step > 3 else [])
    configure_training(training_config(total_steps=6, profiling=profiling(tmp_path / "again"))).train()
    assert windows_in(tmp_path / "again") == ["step-2-to-3"]


def test_a_trace_that_cannot_be_written_is_logged_and_the_loop_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A trace that cannot be written is logged as a warning, leaves no partial file, and does not stop the run."""
    (tmp_path / f"step-2-to-3{ENDING}").mkdir()
    trainer = configure_training(training_config(total_steps=6, profiling=profiling(tmp_path)))
    with caplog.at_level(logging.WARNING):
        trainer.train()

    assert [path.name for path in tmp_path.iterdir()] == [f"step-2-to-3{ENDING}"]
    assert f"profiling.folder={tmp_path}: IsADirectoryError: " in caplog.text
    assert f"step-2-to-3{ENDING}', after 4 of 6 steps. The run continues: traces are missing there." in caplog.text
    assert trainer.stepper.is_finished


def test_the_name_of_a_trace_has_the_rank(tmp_path: Path) -> None:
    """Trace names contain the rank, so that all ranks can write to one folder."""
    stepper = Stepper(3)
    dist_context = DistributedContext(device=torch.device("cpu"), rank=3, world_size=4)
    with Profiler(profiling(tmp_path, wait_steps=0), dist_context, stepper) as profiler:
        while not stepper.is_finished:
            stepper.advance()
            profiler.step_done()

    assert [path.name for path in tmp_path.iterdir()] == ["step-1-to-2.rank-3.pt.trace.json.gz"]


def test_the_device_is_recorded_in_addition_to_the_cpu() -> None:
    """The profiler records the CPU and the accelerator that the loop runs on, if torch supports it."""
    assert _activities(torch.device("cpu")) == [ProfilerActivity.CPU]
    for name in ("cuda", "xpu"):
        possible = {ProfilerActivity.CPU, ProfilerActivity.__members__[name.upper()]}
        assert {*_activities(torch.device(name))} == possible & {*supported_activities()}  # type: ignore[no-untyped-call]  # torch's own


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_trace_of_a_gpu_contains_its_kernels(tmp_path: Path) -> None:
    """A trace of training on a GPU contains kernels, not only their launches."""
    configure_training(training_config(device="cuda", total_steps=6, profiling=profiling(tmp_path))).train()
    with gzip.open(tmp_path / f"step-2-to-3{ENDING}", "rt", encoding="utf-8") as file:
        assert "kernel" in {event.get("cat") for event in json.load(file)["traceEvents"]}


def test_recording_changes_no_weight(tmp_path: Path) -> None:
    """A run with the profiler ends with bit-identical weights."""
    ends = []
    for settings in (None, profiling(tmp_path)):
        trainer = configure_training(training_config(total_steps=6, profiling=settings))
        trainer.train()
        ends.append(weights_of(trainer.modules[0]))

    assert same_tensors(*ends)


def test_without_settings_nothing_is_recorded() -> None:
    """Without `profiling`, torch's profiler does not run."""
    trainer = configure_training(training_config())
    states: list[bool] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_STEP_POST, lambda ctx: states.append(torch.autograd.profiler._is_profiler_enabled)
    )
    trainer.train()

    assert states == [False] * 3


def test_settings_that_leave_no_step_to_record_are_refused(tmp_path: Path) -> None:
    """Settings whose waiting and warm-up leave no step to record are refused, with the values that would work."""
    config = training_config(total_steps=3, profiling=profiling(tmp_path, wait_steps=2))
    with pytest.raises(
        ConfigurationError,
        match=r"profiling.wait_steps=2 and profiling.warmup_steps=1 leave none of total_steps=3 to record: lower "
        r"wait_steps, so that both add up to at most 2",
    ):
        configure_training(config)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be written to is refused by `configure()`, not at the first trace."""
    (tmp_path / "a_file").write_text("mine")
    config = training_config(total_steps=6, profiling=profiling(tmp_path / "a_file"))
    with pytest.raises(ConfigurationError, match=r"profiling.folder='.*a_file' cannot be written to"):
        configure_training(config)
