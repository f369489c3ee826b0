"""Runs with everything that may happen between two steps, and runs that end in each way, keep the declared order."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from declared import record, violation

from d9d.loop.component.evaluation import Evaluation
from d9d.loop.config import CheckpointingConfig, ReportingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import train
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_STEP_POST,
    EventEvaluationStartedContext,
    EventStepContext,
)
from d9d.loop.run import Trainer

from .toy_job import StoppedError, ToyDataset, ToyTask, configure_training, training_config

Listen = Callable[[EventBus], object]
REPORTING = ReportingConfig(progress_bar=False, period_steps=1, json_lines=None)


def configured(folder: Path, trace: list[str], listen: Listen | None = None, **checkpointing: Any) -> Trainer:
    """Configure a run of three steps with two evaluations, a report and a checkpoint after each step."""

    def register(bus: EventBus) -> None:
        record(bus, train, trace)
        if listen is not None:
            listen(bus)

    evaluations: Mapping[str, Evaluation] = {
        "first": Evaluation(dataset_provider=ToyDataset(), period_steps=1, at_start=True),
        "second": Evaluation(dataset_provider=ToyDataset(), period_steps=2),
    }
    saving = CheckpointingConfig(folder=folder / "checkpoints", period_steps=1, **checkpointing)
    config = training_config(saving, reporting=REPORTING)
    return configure_training(config, task=ToyTask(register), evaluations=evaluations)


def judged(trace: list[str]) -> str | None:
    """Return where a complete run leaves the declared order."""
    return violation("train", trace, complete=True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_with_all_of_a_boundary_is_in_order(tmp_path: Path, *, asynchronous: bool) -> None:
    """Evaluations, also before the first step, reports, and checkpoints that are saved now or later."""
    trace: list[str] = []
    configured(tmp_path, trace, asynchronous=asynchronous).train()

    assert judged(trace) is None
    assert trace.count("train.evaluation.start") == trace.count("train.evaluation.finished") >= 6
    assert trace.count("train.checkpoint.start") == trace.count("train.checkpoint.saved") == 3
    assert trace[-2:] == ["train.finished", "train.closed"]


def test_a_run_that_sleeps_and_saves_between_steps_is_in_order(tmp_path: Path) -> None:
    """What the caller does between two steps comes before and after what the loop does there."""
    trace: list[str] = []
    trainer = configured(tmp_path, trace)
    for _ in trainer.steps():
        trainer.sleep()
        trainer.wake()
        trainer.save()

    assert judged(trace) is None
    assert trace.count("train.sleep.pre") == trace.count("train.wake.post") == 3


def test_a_run_that_its_caller_leaves_is_closed_without_having_finished(tmp_path: Path) -> None:
    """The caller leaves after the first step."""
    trace: list[str] = []
    steps = configured(tmp_path, trace).steps()
    next(steps)
    steps.close()

    assert judged(trace) is None
    assert "train.finished" not in trace


def test_a_run_that_a_handler_stops_has_finished(tmp_path: Path) -> None:
    """A request in the first step takes effect after the second."""

    def stop(context: EventStepContext) -> None:
        context.control.stop("enough")

    trace: list[str] = []
    configured(tmp_path, trace, lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, stop, once=True)).train()

    assert judged(trace) is None
    assert trace[-2:] == ["train.finished", "train.closed"]
    assert trace.count("train.step.pre") == 2


def test_a_run_that_fails_in_an_evaluation_is_closed_at_once(tmp_path: Path) -> None:
    """Neither the end of the evaluation nor anything else of the boundary follows."""

    def fail(context: EventEvaluationStartedContext) -> None:
        if context.stepper.current_step == 2:
            raise StoppedError

    trace: list[str] = []
    trainer = configured(tmp_path, trace, lambda bus: bus.subscribe(EVENT_TRAIN_EVALUATION_STARTED, fail))
    with pytest.raises(StoppedError):
        trainer.train()

    assert judged(trace) is None
    assert trace[-3:] == ["train.evaluation.start", "train.failed", "train.closed"]
