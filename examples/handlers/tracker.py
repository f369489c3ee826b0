"""A tracker of experiments, such as Weights & Biases, written as a subscriber. This one works offline."""

import json
from pathlib import Path
from typing import Any

from d9d import subscribe
from d9d.loop.event.catalogue.common import EventConfigurationStartedContext, EventReportReadyContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_FAILED,
    EVENT_TRAIN_REPORT_READY,
    EventEvaluationFinishedContext,
    EventTrainClosedContext,
    EventTrainFailedContext,
)


class Tracker:
    """Records a training run in a folder: its settings, all numbers by step, and how it ended.

    It works on the main process alone. The comments say what a handler would call of `wandb`.

    Args:
        folder: Where to write. A run that resumes adds to the same files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._summary: dict[str, Any] = {}

    @subscribe(EVENT_TRAIN_CONFIG_STARTED, main_process_only=True)
    def begin(self, ctx: EventConfigurationStartedContext) -> None:
        """Record the settings: `run = wandb.init(config=ctx.settings, mode="offline")`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {**ctx.settings, "num_processes": ctx.dist_context.world_size}
        self._write("settings.json", settings)

    @subscribe(EVENT_TRAIN_REPORT_READY, main_process_only=True)
    def log(self, ctx: EventReportReadyContext) -> None:
        """Record the numbers of a report, of training or of an evaluation: `run.log(metrics, step=step)`."""
        line = json.dumps({"step": ctx.report.step, **ctx.report.metrics})
        with (self._folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    @subscribe(EVENT_TRAIN_EVALUATION_FINISHED, main_process_only=True)
    def summarise(self, ctx: EventEvaluationFinishedContext) -> None:
        """Keep the newest results of each evaluation: `run.summary.update(...)`."""
        self._summary[ctx.name] = {"step": ctx.stepper.current_step, **ctx.metrics}

    @subscribe(EVENT_TRAIN_FAILED, main_process_only=True)
    def fail(self, ctx: EventTrainFailedContext) -> None:
        """Record the error: `run.alert(title="failed", text=...)`."""
        self._summary["error"] = f"{type(ctx.error).__name__}: {ctx.error}"

    @subscribe(EVENT_TRAIN_CLOSED, main_process_only=True)
    def finish(self, ctx: EventTrainClosedContext) -> None:
        """Record how the run ended: `run.finish(exit_code=int(ctx.outcome == "failed"))`."""
        self._write("summary.json", {**self._summary, "outcome": ctx.outcome, "reason": ctx.reason})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        (self._folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
