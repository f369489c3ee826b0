"""How many files a reader opens to follow a step, a save, a resume, and the configuration of a training run."""

import sys
from pathlib import Path

import pytest
from journeys import PROJECT, files_opened

from d9d.loop.config import CheckpointingConfig, ReportingConfig, TrainingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

from .toy_job import configure_training, training_config

MAX_FILES_OF_A_STEP = 13
MAX_FILES_OF_A_SAVE = 14
MAX_FILES_OF_A_RESUME = 15  # it compares settings, finds its place in the data, and says so on the console
MAX_FILES_OF_CONFIGURE = 43
MAX_FILES_OF_THE_LOOPS = 90


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> TrainingConfig:
    """A run with reports, checkpoints, clipping and garbage collection, none of which is due in its second step."""
    return training_config(
        total_steps=4,
        checkpointing=CheckpointingConfig(folder=tmp_path / "checkpoints", period_steps=3),
        reporting=ReportingConfig(progress_bar=False, period_steps=3, json_lines=tmp_path / "metrics.jsonl"),
    )


def test_configuring_a_run_opens_few_files(config: TrainingConfig) -> None:
    """From the configurator to the trainer."""
    opened = files_opened(lambda: configure_training(config))

    assert "d9d/loop/run/assembly.py" in opened
    assert len(opened) <= MAX_FILES_OF_CONFIGURE, opened


def test_a_step_opens_few_files(config: TrainingConfig) -> None:
    """A step in which nothing is due, from the end of one handler of `train.step.pre` to the next call of it."""
    trainer = configure_training(config)
    opened: list[set[str]] = []

    def next_step(ctx: EventStepContext) -> None:
        sys.setprofile(None)
        files: set[str] = set()
        opened.append(files)
        if ctx.stepper.current_step == 1:
            sys.setprofile(lambda frame, event, _: files.add(frame.f_code.co_filename) if event == "call" else None)

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, next_step)
    trainer.train()

    own = sorted(name for name in opened[1] if Path(name).is_relative_to(PROJECT / "d9d"))
    assert str(PROJECT / "d9d/loop/run/training.py") in own
    assert len(own) <= MAX_FILES_OF_A_STEP, own


def test_a_save_opens_few_files(config: TrainingConfig) -> None:
    """From the checkpointer to the files on disk."""
    trainer = configure_training(config)
    trainer._loop.load_state()

    opened = files_opened(trainer._loop.checkpointer.save)

    assert config.checkpointing is not None
    assert (config.checkpointing.folder / "step-0" / "checkpoint.json").is_file()
    assert len(opened) <= MAX_FILES_OF_A_SAVE, opened


def test_a_resume_opens_few_files(config: TrainingConfig) -> None:
    """From the files on disk to the state of the job."""
    configure_training(config).train()
    trainer = configure_training(config)

    opened = files_opened(trainer._loop.checkpointer.resume)

    assert trainer.stepper.current_step == 4
    assert len(opened) <= MAX_FILES_OF_A_RESUME, opened


def test_the_loops_have_few_files() -> None:
    """A module is a concept, not a function."""
    files = [path for part in ("core", "loop") for path in (PROJECT / "d9d" / part).rglob("*.py")]

    assert len(files) <= MAX_FILES_OF_THE_LOOPS
