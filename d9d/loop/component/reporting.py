"""Collecting the numbers of a loop and reporting them."""

import dataclasses
import datetime as dt
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import torch
from torch import distributed
from torch.distributed import ProcessGroup, Work

from d9d.core.device import accelerator_module, has_streams
from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric, Reduction, accumulation_dtype
from d9d.core.protocol import OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.sinks import (
    RESERVED_NAMES,
    Console,
    JsonLines,
    Report,
    ReportSink,
    TensorBoard,
    is_tensorboard_installed,
)
from d9d.loop.config import ConfigurationError, LoopConfig, ReportingConfig
from d9d.loop.control import BaseTask, CreateMetricsContext


class HostCopy:
    """A copy, on the host, of tensors that are still computed or reduced; it makes nobody wait until it is read.

    Args:
        tensors: Flat tensors of one type on one device.
        works: The collective operations that complete them.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], works: Sequence[Work]) -> None:
        self._tensors = tensors  # kept, since another stream reads them
        self._works = works
        device = tensors[0].device
        self._stream = torch.Stream(device=device) if has_streams(device) else None
        if self._stream is None:
            return
        self._event = torch.Event(device=self._stream.device)
        self._stream.wait_stream(torch.accelerator.current_stream(self._stream.device))
        with self._stream:
            for work in works:
                work.wait()  # here it is the stream that waits, and neither the host nor the stream of the model
            self._joined = torch.cat(list(tensors))
            self._host = torch.empty(self._joined.shape, dtype=self._joined.dtype, pin_memory=True)
            self._host.copy_(self._joined, non_blocking=True)
            self._event.record(self._stream)

    def is_ready(self) -> bool:
        """Say whether reading would not wait."""
        return all(work.is_completed() for work in self._works) if self._stream is None else self._event.query()

    def read(self) -> list[torch.Tensor]:
        """Return the tensors as they are on the host, after waiting for them if they are not ready.

        Returns:
            A tensor on the host for each tensor.
        """
        if self._stream is None:
            for work in self._works:
                work.wait()
            return [tensor.cpu() for tensor in self._tensors]
        self._event.synchronize()
        return list(torch.split(self._host, [len(tensor) for tensor in self._tensors]))


def learning_rates(optimizer: OptimizerProtocol | None) -> dict[str, float | torch.Tensor]:
    """Return the learning rates as they stand, without waiting for a device that has them.

    Args:
        optimizer: The optimizer; only those of torch are known to have learning rates.

    Returns:
        `learning_rate` where there is one group of parameters, else one for each group, by its index.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return {}
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    # A tensor on the host is a number that nobody waits for; a copy, since schedulers change it in place.
    known = [rate.clone() if _is_on_device(rate) else float(rate) for rate in rates]
    names = ["learning_rate"] if len(known) == 1 else [f"learning_rate/{index}" for index in range(len(known))]
    return dict(zip(names, known, strict=True))


def _is_on_device(rate: object) -> bool:
    return isinstance(rate, torch.Tensor) and rate.device.type != "cpu"


class PeakMemory:
    """The most memory that tensors have taken on any device of the job, since the processes began; in bytes.

    Args:
        device: The device of this process.
        measure: Returns its memory, without waiting for it.
    """

    reduction: Reduction = "max"

    def __init__(self, device: torch.device, measure: Callable[[torch.device], int]) -> None:
        self._device = device
        self._measure = measure

    @classmethod
    def of(cls, device: torch.device) -> Self | None:
        """Return that of a device.

        Args:
            device: The device.

        Returns:
            The metric; `None` for devices that do not count their memory, as the CPU.
        """
        measure = getattr(accelerator_module(device), "max_memory_allocated", None)
        return None if measure is None else cls(device, measure)

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        num_bytes = self._measure(self._device)
        return torch.full((1,), num_bytes, dtype=accumulation_dtype(self._device), device=self._device)

    def compute(self, reduced: torch.Tensor, /) -> float:  # noqa: D102 -- inherited
        return reduced.item()

    def reset(self) -> None:
        """Do nothing: others may ask the device for its peak as well."""


_OPERATIONS = {
    "sum": distributed.ReduceOp.SUM,
    "max": distributed.ReduceOp.MAX,
    "min": distributed.ReduceOp.MIN,
}


class MetricExchange:
    """Reduces all metrics of a task over all that count, with one collective operation for each kind of reduction.

    Args:
        metrics: The metrics, by their names, the same on all processes.
        dist_context: The processes.
    """

    def __init__(self, metrics: Mapping[str, Metric], dist_context: DistributedContext) -> None:
        self._dtype = accumulation_dtype(dist_context.device)
        self._group: ProcessGroup | None = None
        if dist_context.world_size > 1:
            self._group = dist_context.mesh_for("loss").get_group("loss")
        by_kind = {
            kind: {name: metric for name, metric in metrics.items() if metric.reduction == kind}
            for kind in get_args(Reduction)
        }
        # All processes have the same kinds, and exchange them in the same order.
        self._by_kind = {kind: chosen for kind, chosen in by_kind.items() if chosen}
        self._sizes = {name: len(metric.share()) for name, metric in metrics.items()}

    def begin(self) -> tuple[list[torch.Tensor], list[Work]]:
        """Take the share of each metric, reset it, and begin to reduce.

        Returns:
            A flat tensor for each kind of reduction, and the operations that complete them.

        Raises:
            ValueError: If the share of a metric has changed its size.
        """
        packs, works = [], []
        for kind, metrics in self._by_kind.items():
            pack = torch.cat([self._share(name, metric).to(self._dtype) for name, metric in metrics.items()])
            for metric in metrics.values():
                metric.reset()
            packs.append(pack)
            if self._group is not None:
                work = distributed.all_reduce(pack, _OPERATIONS[kind], self._group, async_op=True)
                works.append(work)
        return packs, works

    def numbers(self, packs: Sequence[torch.Tensor]) -> Iterator[tuple[str, float]]:
        """Compute the values.

        Args:
            packs: What `begin` returned, complete and on the host.

        Yields:
            The name and the value of each number.
        """
        for metrics, pack in zip(self._by_kind.values(), packs, strict=True):
            shares = torch.split(pack, [self._sizes[name] for name in metrics])
            for (name, metric), reduced in zip(metrics.items(), shares, strict=True):
                value = metric.compute(reduced)
                if isinstance(value, Mapping):
                    yield from ((f"{name}/{key}", float(number)) for key, number in value.items())
                elif value is not None:
                    yield name, float(value)

    def _share(self, name: str, metric: Metric) -> torch.Tensor:
        share = metric.share()
        if share.shape != (self._sizes[name],):
            raise ValueError(
                f"the share of metric {name!r} has the shape {list(share.shape)}, and had [{self._sizes[name]}] at "
                "first: make it one flat tensor of one size at all times"
            )
        return share


def create_task_metrics(task: BaseTask, dist_context: DistributedContext) -> dict[str, Metric]:
    """Have a task create its metrics, and refuse those that cannot be reported.

    Args:
        task: The task.
        dist_context: The processes that have to agree on them.

    Returns:
        The metrics, by their names.

    Raises:
        ConfigurationError: If the metrics, or their names, cannot be reported; on all processes alike.
    """
    metrics = task.create_metrics(CreateMetricsContext(dist_context=dist_context))
    problem = _metric_problem(metrics)
    problems = filter(None, Ranks.of(dist_context).gather(problem))
    layouts = Ranks.of(dist_context).gather([] if problem else _layout(metrics))
    problem = next(problems, None) or _disagreement(layouts)
    if problem:
        raise ConfigurationError(f"{type(task).__qualname__}.create_metrics {problem}")
    return dict(metrics)


def _metric_problem(metrics: object) -> str | None:
    if not isinstance(metrics, Mapping):
        return f"returned a {type(metrics).__qualname__}: return a mapping from names to metrics"
    problems = (_problem_of_name(name) or _problem_of_metric(name, metric) for name, metric in metrics.items())
    return next(filter(None, problems), None) or _ambiguity(list(metrics))


def _problem_of_name(name: object) -> str | None:
    if not isinstance(name, str) or not name:
        return f"names a metric {name!r}: use a string that is not empty"
    if name.split("/")[0] not in RESERVED_NAMES:
        return None
    taken = ", ".join(sorted(RESERVED_NAMES))
    return f"names a metric {name!r}, and the loop has that name already: use none of {taken}, alone or before a slash"


def _problem_of_metric(name: str, metric: object) -> str | None:
    if not isinstance(metric, Metric):
        return f"returned a {type(metric).__qualname__} as {name!r}: return a Metric, such as a SumMetric"
    if metric.reduction not in get_args(Reduction):
        return f"returned {name!r} with reduction={metric.reduction!r}: use one of {', '.join(get_args(Reduction))}"
    shape = list(metric.share().shape)
    return None if len(shape) == 1 else f"returned {name!r}, whose share has the shape {shape}: flatten it"


def _ambiguity(names: Sequence[str]) -> str | None:
    for shorter, longer in itertools.permutations(names, 2):
        if longer.startswith(f"{shorter}/"):
            return (
                f"names metrics {shorter!r} and {longer!r}, and {shorter!r} may have numbers of that name: rename one"
            )
    return None


def _layout(metrics: Mapping[str, Metric]) -> list[str]:
    """Describe what is exchanged, in its order."""
    return [f"{name} ({metric.reduction} of {len(metric.share())})" for name, metric in metrics.items()]


def _disagreement(layouts: Sequence[list[str]]) -> str | None:
    for rank, layout in enumerate(layouts):
        if layout != layouts[0]:
            return (
                f"returned {', '.join(layout) or 'nothing'} on rank {rank}, and {', '.join(layouts[0]) or 'nothing'} "
                "on rank 0: create the same metrics in one order on all ranks; those that have nothing to count there "
                "are left as they are"
            )
    return None


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PendingReport:
    """A report whose numbers are still on their way from the devices.

    Attributes:
        report: All of it that the host knows.
        names: The names of the first numbers that come from the device.
        copy: These numbers, and after them the metrics.
    """

    report: Report
    names: Sequence[str]
    copy: HostCopy


class Reporter:
    """Gathers numbers every few steps, and hands them to the sinks a step or more later, when the devices have them.

    In the step in which a report is due, the reduction of the metrics over all processes and the copy to the host are
    merely begun. Only if they take longer than until the next report, or the end of the loop, are they waited for. All
    processes do this alike, and the main process alone has a console and sinks.

    Args:
        loop: What the loop does, such as `train`.
        stepper: Knows the steps.
        period_steps: How often to report, in steps; `None` never does.
        exchange: Brings the metrics together.
        device: Where the metrics are.
        samples_per_step: How many samples a step takes.
        num_samples: How many there are; the last step takes what is left.
        open_console: Begins to show the loop to people; `None` shows nothing.
        sinks: Where else reports go.
    """

    def __init__(
        self,
        loop: str,
        *,
        stepper: Stepper,
        period_steps: int | None,
        exchange: MetricExchange,
        device: torch.device,
        samples_per_step: int,
        num_samples: int,
        open_console: Callable[[], Console] | None,
        sinks: Sequence[ReportSink],
    ) -> None:
        self._loop = loop
        self._stepper = stepper
        self._period_steps = period_steps
        self._exchange = exchange
        self._device = device
        self._samples_per_step = samples_per_step
        self._num_samples = num_samples
        self._open_console = open_console
        self._file_sinks = sinks
        self._console: Console | None = None
        self._pending: _PendingReport | None = None
        self._recorded: dict[str, float | torch.Tensor | None] | None = None
        self._failing: set[str] = set()

    def __enter__(self) -> Self:
        """Begin to show and to measure."""
        self._console = self._open_console() if self._open_console is not None else None
        self._measured_steps, self._measured_at = self._stepper.current_step, time.perf_counter()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hand out what is left, and close."""
        if error is None:
            self._publish()
        else:
            # The last numbers may tell why; but neither is there a wait for what may never come, nor a second error.
            with suppress(Exception):
                self._publish_if_ready()
        for sink in self._sinks():
            try:
                sink.close()
            except OSError as problem:
                logger.warning("%s: the last reports may be missing in %s (%s)", self._loop, sink.target, problem)

    def record(
        self,
        loss: torch.Tensor | None = None,
        gradient_norm: torch.Tensor | None = None,
        optimizer: OptimizerProtocol | None = None,
    ) -> None:
        """Take the numbers of a step, before the learning rate changes, if a report of this step is due.

        Args:
            loss: The loss of the step over all processes, where there is one.
            gradient_norm: The norm of its gradients over all processes, where there is one.
            optimizer: Holds the learning rates of the step.
        """
        if self._stepper.is_due(self._period_steps):
            self._recorded = {"loss": loss, "gradient_norm": gradient_norm, **learning_rates(optimizer)}

    def step_done(self) -> None:
        """Begin the report of the step if it is due, and publish an earlier one that has arrived on the host."""
        if self._pending is not None:
            self._publish_if_ready()
        if self._recorded is not None:
            self._publish()
            self._pending = self._begin(self._recorded)
            self._recorded = None
        if self._console is not None:
            self._console.step_done()

    def _begin(self, candidates: Mapping[str, float | torch.Tensor | None]) -> _PendingReport:
        on_device = {name: number for name, number in candidates.items() if isinstance(number, torch.Tensor)}
        dtype = accumulation_dtype(self._device)
        scalars = [number.detach().to(self._device, dtype).reshape(1) for number in on_device.values()]
        packs, works = self._exchange.begin()
        known = {name: number for name, number in candidates.items() if isinstance(number, float)}
        return _PendingReport(
            report=Report(
                loop=self._loop,
                num_steps=self._stepper.current_step,
                total_steps=self._stepper.total_steps,
                taken_at=dt.datetime.now(dt.UTC),
                numbers={**known, **self._measure_speed()},
            ),
            names=list(on_device),
            copy=HostCopy([torch.cat([*scalars, torch.empty(0, dtype=dtype, device=self._device)]), *packs], works),
        )

    def _measure_speed(self) -> dict[str, float]:
        """Measure how fast the steps since the last report were."""
        before, now = self._measured_steps, time.perf_counter()
        num_steps, seconds = self._stepper.current_step, max(now - self._measured_at, 1e-9)
        self._measured_steps, self._measured_at = num_steps, now
        num_samples = min(num_steps * self._samples_per_step, self._num_samples) - before * self._samples_per_step
        return {"steps_per_second": (num_steps - before) / seconds, "samples_per_second": num_samples / seconds}

    def _publish_if_ready(self) -> None:
        if self._pending is not None and self._pending.copy.is_ready():
            self._publish()

    def _publish(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        scalars, *packs = pending.copy.read()
        if not self._sinks():
            return
        from_device = dict(zip(pending.names, scalars.tolist(), strict=True))
        numbers = {**from_device, **dict(self._exchange.numbers(packs)), **pending.report.numbers}
        report = dataclasses.replace(pending.report, numbers=numbers)
        for sink in self._sinks():
            self._write(sink, report)

    def _sinks(self) -> list[ReportSink]:
        return [*([] if self._console is None else [self._console]), *self._file_sinks]

    def _write(self, sink: ReportSink, report: Report) -> None:
        """Write a report; a run of days is not lost for a line that is."""
        try:
            sink.write(report)
        except OSError as error:
            if sink.target not in self._failing:
                logger.warning(
                    "%s: the report of step %d could not be written to %s (%s): the run goes on without it, and tries "
                    "again with each report; free or mend the disk",
                    *(report.loop, report.num_steps, sink.target, error),
                )
            self._failing.add(sink.target)
        else:
            self._failing.discard(sink.target)


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
                "pip install 'd9d-hooks[tensorboard]', or set it to None"
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
