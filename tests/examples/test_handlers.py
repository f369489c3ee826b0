"""The examples of subscribers: a tracker, early stopping, and a monitor of losses."""

import datetime as dt
import json
from pathlib import Path

import pytest
import torch
from early_stopping import EarlyStopping
from layout_job import ADAMW, LAYOUTS, ClassifyTask, Provider, configure, provide_dataset, record_losses
from loss_monitor import LossMonitor
from ranks import run_on_ranks
from torch import distributed
from tracker import Tracker

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.loop_control import LoopControl
from d9d.core.report import Report
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, ReportingConfig, TrainingConfig
from d9d.loop.control import ComputeLossContext, ComputeLossResult, RegisterTaskEventsContext
from d9d.loop.event import EventBus, subscribe_annotated
from d9d.loop.event.catalogue.common import EventReportReadyContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventEvaluationFinishedContext,
    EventStepContext,
    EventTrainClosedContext,
)
from d9d.loop.run import Trainer, TrainingConfigurator
from d9d.testing import make_context

TOTAL_STEPS = 20
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def configure_tracked(folder: Path, num_ranks: int, *, patience: int) -> Trainer:
    """Configure a job in which each rank has files of its own, and no report is much better than the first one."""
    layout = LAYOUTS["fsdp"] if num_ranks > 1 else LAYOUTS["plain"]
    config = TrainingConfig(
        total_steps=TOTAL_STEPS,
        global_batch_size=32,
        device="cpu",
        mesh=layout.mesh.get(num_ranks, DeviceMeshParameters()),
        reporting=ReportingConfig(progress_bar=False, period_steps=1, json_lines=None),
        checkpointing=CheckpointingConfig(folder=folder / "checkpoints", period_steps=1, num_to_keep=100),
    )
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    return TrainingConfigurator(
        config=config,
        task=ClassifyTask(),
        model_provider=Provider(layout),
        dataset_provider=provide_dataset,
        optimizer_provider=ADAMW,
        subscribers=[Tracker(folder / f"run-{rank}"), EarlyStopping("loss", patience=patience, min_delta=100.0)],
    ).configure()


def train_tracked(folder: Path, num_ranks: int) -> tuple[int, str, str]:
    """Train; return how many steps this rank has done, and how the run ended there."""
    trainer = configure_tracked(folder, num_ranks, patience=3)
    ends: list[EventTrainClosedContext] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_CLOSED, ends.append)
    trainer.train()
    (end,) = ends
    return trainer.stepper.current_step, end.outcome, end.reason


def test_one_rank_of_two_stops_the_run_and_records_it(tmp_path: Path) -> None:
    """Both ranks stop after the same step, with a checkpoint; the main process alone writes files."""
    first, second = run_on_ranks(2, train_tracked, tmp_path, 2)
    num_steps, outcome, reason = first
    folder = tmp_path / "run-0"
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    checkpoints = Checkpoint.list_in(tmp_path / "checkpoints")

    assert first == second
    assert num_steps < TOTAL_STEPS
    assert outcome == "finished"
    assert reason == f"loss has not fallen below {lines[0]['loss']:.4g} in 3 reports"
    assert max(checkpoint.num_steps for checkpoint in checkpoints) == num_steps
    assert (settings["total_steps"], settings["num_processes"]) == (TOTAL_STEPS, 2)
    assert [line["step"] for line in lines] == list(range(1, num_steps + 1))
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == {"outcome": outcome, "reason": reason}
    assert not (tmp_path / "run-1").exists()


def test_the_tracker_records_why_a_run_failed(tmp_path: Path) -> None:
    """The error is in its summary, with the outcome."""

    def fail(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            raise RuntimeError("the data is gone")

    trainer = configure_tracked(tmp_path, 1, patience=3)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, fail)
    with pytest.raises(RuntimeError, match="the data is gone"):
        trainer.train()

    assert json.loads((tmp_path / "run-0" / "summary.json").read_text(encoding="utf-8")) == {
        "error": "RuntimeError: the data is gone",
        "outcome": "failed",
        "reason": "the data is gone",
    }


def test_the_tracker_keeps_the_newest_results_of_each_evaluation(tmp_path: Path) -> None:
    """They are in its summary with their step."""
    bus, stepper = EventBus(), Stepper(9, 4)
    subscribe_annotated(bus, Tracker(tmp_path))
    for loss in (2.0, 1.0):
        results = {"loss": loss}
        bus.trigger(
            EVENT_TRAIN_EVALUATION_FINISHED,
            EventEvaluationFinishedContext(stepper=stepper, control=LoopControl(), name="validation", metrics=results),
        )
    bus.trigger(EVENT_TRAIN_CLOSED, EventTrainClosedContext(outcome="finished", reason="all steps are done"))

    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == {
        "validation": {"step": 4, "loss": 1.0},
        "outcome": "finished",
        "reason": "all steps are done",
    }


def judged(stopping: EarlyStopping, losses: list[float]) -> str | None:
    """Return why early stopping stops after these reports, if it does."""
    bus, control = EventBus(), LoopControl()
    subscribe_annotated(bus, stopping)
    for step, loss in enumerate(losses, start=1):
        report = Report(step=step, time=NOW, metrics={"validation/loss": loss})
        context = EventReportReadyContext(stepper=Stepper(99, step), control=control, report=report)
        bus.trigger(EVENT_TRAIN_REPORT_READY, context)
    return control.stop_reason


def test_early_stopping_counts_reports_since_the_best_one() -> None:
    """A better report starts the count again, and a resumed run continues it."""
    first, resumed = (EarlyStopping("validation/loss", patience=2) for _ in range(2))

    assert judged(first, [3.0, 4.0, 2.0, 2.5]) is None
    resumed.load_state_dict(first.state_dict())
    assert judged(resumed, [2.0]) == "validation/loss has not fallen below 2 in 2 reports"


def test_early_stopping_ignores_reports_without_its_number() -> None:
    """Reports of training and of evaluations come in turn."""
    assert judged(EarlyStopping("loss", patience=1), [1.0, 1.0, 1.0]) is None


class MonitoredTask(ClassifyTask):
    """Has a monitor of losses that logs every two steps, and may return NaN in one step."""

    def __init__(self, nan_in: int | None = None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._nan_in = nan_in

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        subscribe_annotated(ctx.event_bus, LossMonitor(period_steps=2, log=self.lines.append))

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = super().compute_loss(ctx)
        if ctx.stepper.current_step == self._nan_in:
            return ComputeLossResult(loss=result.loss * float("nan"), loss_weight=1.0)
        return result


def train_monitored(layout: str, num_ranks: int) -> tuple[list[str], list[float]]:
    """Train five steps; return what the monitor of this rank logs, and the losses of the steps."""
    task = MonitoredTask()
    trainer = configure(LAYOUTS[layout], num_ranks, task, total_steps=5)
    losses = record_losses(trainer)
    trainer.train()
    return task.lines, [loss.item() for loss in losses]


def test_the_monitor_logs_the_losses_of_its_process() -> None:
    """Every two steps and after the last one; the mean over a step is the loss of the step."""
    lines, losses = train_monitored("plain", 1)

    assert [line.partition(":")[0] for line in lines] == ["step 2", "step 4", "step 5"]
    assert [line.rpartition(", ")[2] for line in lines] == ["32 micro-batches", "32 micro-batches", "16 micro-batches"]
    assert f"mean loss {losses[-1]:.4f}" in lines[-1]


def test_the_monitor_continues_where_nothing_has_any_weight() -> None:
    """A process may have no token to count in some steps; a mean over none is NaN."""
    lines: list[str] = []
    monitor, stepper = LossMonitor(period_steps=1, log=lines.append), Stepper(9)
    monitor.collect(make_context(EVENT_TRAIN_LOSS_READY, loss=torch.tensor(float("nan")), loss_weight=0.0))
    ctx = make_context(EVENT_TRAIN_STEP_POST, stepper=stepper)
    monitor.report(ctx)

    assert lines == ["step 1: mean loss 0.0000, largest 0.0000, 1 micro-batches"]
    assert ctx.control.stop_reason is None


def test_in_a_pipeline_the_last_stage_has_the_monitor() -> None:
    """The other processes have no losses, and log nothing."""
    expected, _ = train_monitored("plain", 1)

    (first, _), (second, _) = run_on_ranks(2, train_monitored, "1f1b", 2)

    assert first == []
    assert [line.partition(":")[0] for line in second] == [line.partition(":")[0] for line in expected]


def test_the_monitor_stops_a_run_whose_loss_is_nan() -> None:
    """The reason names the steps."""
    task = MonitoredTask(nan_in=2)
    trainer = configure(LAYOUTS["plain"], 1, task, total_steps=9)
    ends: list[EventTrainClosedContext] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_CLOSED, ends.append)

    trainer.train()

    assert [(end.outcome, end.reason) for end in ends] == [
        ("finished", "the loss is NaN in one of the 2 steps up to step 4")
    ]
    assert trainer.stepper.current_step == 5
