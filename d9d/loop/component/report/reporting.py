"""How the reports of a run are set up."""

import os
from pathlib import Path

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.report.console import Console
from d9d.loop.component.report.json_lines import JsonLines
from d9d.loop.component.report.metric_exchange import MetricExchange
from d9d.loop.component.report.peak_memory import PeakMemory
from d9d.loop.component.report.report import ReportSink
from d9d.loop.component.report.reporter import Reporter
from d9d.loop.component.report.task_metrics import create_task_metrics
from d9d.loop.component.report.tensorboard import TensorBoard, is_tensorboard_installed
from d9d.loop.config import ConfigurationError, LoopConfig, ReportingConfig
from d9d.loop.control import BaseTask


def build_reporter(
    loop: str,
    config: LoopConfig,
    *,
    task: BaseTask,
    stepper: Stepper,
    dist_context: DistributedContext,
    num_samples: int | None = None,
) -> Reporter:
    """Set up what a run reports, and where to; nothing is opened yet.

    Args:
        loop: What the loop does, such as `train`.
        config: Says what to report, and how often.
        task: Creates its metrics.
        stepper: Knows the steps.
        dist_context: The processes of the run.
        num_samples: How many samples there are, where the last step takes what is left.

    Returns:
        The reporter of this process.

    Raises:
        ConfigurationError: If metrics cannot be reported, or reports could not be written; on all processes alike.
    """
    reporting, device = config.reporting, dist_context.device
    metrics = create_task_metrics(task, dist_context)
    _require_writable(reporting, dist_context)
    peak_memory = PeakMemory.of(device)
    if peak_memory is not None:
        metrics["peak_memory_bytes"] = peak_memory
    is_main = dist_context.is_main_process
    return Reporter(
        loop,
        stepper=stepper,
        period_steps=reporting.period_steps,
        exchange=MetricExchange(metrics, dist_context),
        device=device,
        samples_per_step=config.global_batch_size,
        num_samples=stepper.total_steps * config.global_batch_size if num_samples is None else num_samples,
        open_console=(lambda: Console(loop, stepper, is_bar=reporting.progress_bar)) if is_main else None,
        sinks=_sinks(reporting) if is_main else [],
    )


def _sinks(config: ReportingConfig) -> list[ReportSink]:
    sinks: list[ReportSink] = []
    if config.json_lines is not None:
        sinks.append(JsonLines(config.json_lines))
    if config.tensorboard is not None:
        sinks.append(TensorBoard(config.tensorboard))
    return sinks


def _require_writable(config: ReportingConfig, dist_context: DistributedContext) -> None:
    """Refuse what the main process could not write, on all processes."""
    if config.period_steps is None:
        return
    problem = _problem(config) if dist_context.is_main_process else None
    for found in Ranks.of(dist_context).gather(problem):
        if found is not None:
            raise ConfigurationError(found)


def _problem(config: ReportingConfig) -> str | None:
    if config.json_lines is not None:
        if config.json_lines.exists() and not config.json_lines.is_file():
            return f"reporting.json_lines={config.json_lines} is no file: name one, or None to write none"
        if not _can_write(config.json_lines):
            return f"reporting.json_lines={config.json_lines} cannot be written: name a file that can, or None"
    if config.tensorboard is not None:
        if not is_tensorboard_installed():
            return (
                f"reporting.tensorboard={config.tensorboard} needs TensorBoard, which is not installed: "
                "pip install 'd9d[tensorboard]', or set it to None"
            )
        if config.tensorboard.is_file() or not _can_write(config.tensorboard):
            return f"reporting.tensorboard={config.tensorboard} cannot be written: name a folder that can, or None"
    return None


def _can_write(path: Path) -> bool:
    """Say whether a file or a folder can be written, or made, without making it."""
    if path.exists():
        return os.access(path, os.W_OK)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
