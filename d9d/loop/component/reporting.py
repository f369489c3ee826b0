"""Reports: the numbers of a loop, gathered every few steps without making a step wait for the device."""

import contextlib
import dataclasses
import datetime as dt
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, get_args

import torch
from torch import distributed
from torch.distributed import ProcessGroup, Work

from d9d.core.device import accelerator_module, copy_to_host, empty_on_host, has_streams
from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric, Reduction, accumulation_dtype
from d9d.core.protocol import OptimizerProtocol
from d9d.core.report import Report
from d9d.core.stepper import Stepper
from d9d.loop.component.console import format_numbers
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.sinks import RESERVED_NAMES, require_writable
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import BaseTask, CreateMetricsContext

_REDUCE_OPS = {
    "sum": distributed.ReduceOp.SUM,
    "max": distributed.ReduceOp.MAX,
    "min": distributed.ReduceOp.MIN,
}

_COMBINE: Mapping[Reduction, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}

# The loss, the gradient norm, and learning rates that are on the device: usually fewer.
_NUM_OWN_NUMBERS = 16

logger = logging.getLogger(__name__)


class Reporter:
    """Gathers numbers every few steps, and returns them as a report a step or more later, when they are on the host.

    In a step that is reported, the reduction of the metrics over all ranks and the copy to the host are only started.
    The loop waits for them only if they take longer than until the next report, or until its own end. All ranks do
    this alike.

    Args:
        stepper: Counts the steps.
        period_steps: How often to report, in steps; `None` never reports.
        exchange: Reduces the metrics.
        task_metrics: Those of them that the task created.
        device: The device of the metrics.
        count_samples: Returns how many samples the steps before a step have.

    Attributes:
        has_numbers: Whether there are numbers that no report has shown yet.
    """

    def __init__(
        self,
        *,
        stepper: Stepper,
        period_steps: int | None,
        exchange: "MetricExchange",
        task_metrics: Mapping[str, Metric],
        device: torch.device,
        count_samples: Callable[[int], int],
    ) -> None:
        self.has_numbers = False
        self._stepper = stepper
        self._period_steps = period_steps
        self._exchange = exchange
        self.task_metrics = task_metrics
        self._device = device
        self._count_samples = count_samples
        self._recorded: dict[str, float | torch.Tensor | None] | None = None
        self._pending: _PendingReport | None = None
        num_elements = exchange.num_elements + _NUM_OWN_NUMBERS
        self._copy = HostCopy(device, accumulation_dtype(device), num_elements)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._measured_steps, self._measured_at = self._stepper.current_step, time.perf_counter()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Add the numbers that no handler has received to an error, since they may explain it."""
        # They may also never arrive, so do not wait for them.
        if error is None or self._pending is None or not self._copy.is_ready():
            return
        try:
            report = self._read_report(self._pending)
        except Exception:  # the error that ended the loop is the one to raise
            logger.debug("the numbers of the last report were lost", exc_info=True)
            return
        error.add_note(
            f"the numbers of step {report.step} of {self._stepper.total_steps}, which no report had shown yet: "
            f"{format_numbers(report.metrics)}"
        )

    @property
    def metric_names(self) -> Collection[str]:
        """The names of all metrics that are reported."""
        return self._exchange.names

    @property
    def is_due(self) -> bool:
        """Whether the current step is reported."""
        return self._stepper.is_due(self._period_steps)

    def record(
        self,
        loss: torch.Tensor | None = None,
        gradient_norm: torch.Tensor | None = None,
        optimizer: OptimizerProtocol | None = None,
        num_skipped_steps: torch.Tensor | None = None,
    ) -> None:
        """Take the numbers of a step that is due; call this before the learning rate changes.

        Args:
            loss: The loss of the step over all ranks, if there is one.
            gradient_norm: The norm of its gradients over all ranks, if there is one.
            optimizer: Holds the learning rates of the step.
            num_skipped_steps: How many steps were skipped so far, where steps may be skipped.
        """
        self.has_numbers = True
        self._recorded = {
            "loss": loss,
            "gradient_norm": gradient_norm,
            **_learning_rates(optimizer),
            "skipped_steps": num_skipped_steps,
        }

    def take(self, *, has_arrived: bool, is_heard: bool = True) -> Report | None:
        """Return an earlier report, once, and start the report of this step if it has one.

        Args:
            has_arrived: Whether the numbers of the earlier report have reached the host on all ranks. If not, it is
                returned only to make room for the next one, after waiting for it.
            is_heard: Whether this rank has a use for the report. If not, its numbers are not computed, and nothing is
                returned.
        """
        report = self.take_last(is_heard=is_heard) if has_arrived or self._recorded is not None else None
        if self._recorded is not None:
            self._pending = self._start(self._recorded)
            self._recorded, self.has_numbers = None, True
        return report

    def take_last(self, *, is_heard: bool = True) -> Report | None:
        """Return the last report after waiting for its numbers, unless it was returned before.

        Args:
            is_heard: Whether this rank has a use for the report.
        """
        pending, self._pending = self._pending, None
        self.has_numbers = self._recorded is not None
        return self._read_report(pending) if is_heard and pending is not None else None

    def metrics_set_aside(self) -> contextlib.AbstractContextManager[None]:
        """Make a context in which the metrics gather something else, which is in no report."""
        return self._exchange.set_aside()

    def announce(self) -> bool:
        """Return whether the numbers of a report have not reached the host of this rank yet."""
        return self._pending is not None and not self._copy.is_ready()

    def _start(self, candidates: Mapping[str, float | torch.Tensor | None]) -> "_PendingReport":
        on_device = {name: number for name, number in candidates.items() if isinstance(number, torch.Tensor)}
        on_host = {name: number for name, number in candidates.items() if isinstance(number, float)}
        dtype = accumulation_dtype(self._device)
        scalars = [number.detach().to(self._device, dtype).reshape(1) for number in on_device.values()]
        packs, works = self._exchange.start()
        self._copy.start([torch.cat([*scalars, torch.empty(0, dtype=dtype, device=self._device)]), *packs], works)
        return _PendingReport(
            report=Report(
                step=self._stepper.current_step,
                time=dt.datetime.now(dt.UTC),
                metrics={**on_host, **self._measure_speed()},
            ),
            names=list(on_device),
        )

    def _measure_speed(self) -> dict[str, float]:
        """Measure the speed of the steps since the last report."""
        before, now = self._measured_steps, time.perf_counter()
        num_steps, seconds = self._stepper.current_step, max(now - self._measured_at, 1e-9)
        self._measured_steps, self._measured_at = num_steps, now
        num_samples = self._count_samples(num_steps) - self._count_samples(before)
        return {"steps_per_second": (num_steps - before) / seconds, "samples_per_second": num_samples / seconds}

    def _read_report(self, pending: "_PendingReport") -> Report:
        """Return a report with the numbers that come from the device, after waiting for them."""
        scalars, *packs = self._copy.read()
        from_device = dict(zip(pending.names, scalars.tolist(), strict=True))
        numbers = {**from_device, **dict(self._exchange.compute(packs)), **pending.report.metrics}
        return dataclasses.replace(pending.report, metrics=numbers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PendingReport:
    """A report whose numbers are on their way from the device.

    Attributes:
        report: The part that the host knows.
        names: The names of the first numbers that come from the device; after them come the metrics.
    """

    report: Report
    names: Sequence[str]


class HostCopy:
    """Copies the numbers of a report to the host while the loop continues; only reading them waits.

    It is made once and used for one report after another. On a device with streams it has a stream of its own, because
    neither the host nor the stream of the model should wait for the reductions, and pinned memory that each report
    overwrites.

    Args:
        device: The device of the numbers.
        dtype: Their dtype.
        num_elements: How many there usually are; more memory is allocated when a report has more.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, num_elements: int) -> None:
        self._device = device
        self._tensors: Sequence[torch.Tensor] = ()
        self._works: Sequence[Work] = ()
        self._stream = torch.Stream(device=device) if has_streams(device) else None
        if self._stream is not None:
            self._event = torch.Event(device=device)
            self._host = empty_on_host(num_elements, dtype, device)

    def start(self, tensors: Sequence[torch.Tensor], works: Sequence[Work]) -> None:
        """Start to copy; the numbers of the report before are overwritten.

        Args:
            tensors: Flat tensors on the device.
            works: The collective operations that complete them.
        """
        if self._stream is None:
            self._tensors, self._works = tensors, works
            return
        num_elements = sum(len(tensor) for tensor in tensors)
        if num_elements > len(self._host):
            self._host = empty_on_host(num_elements, self._host.dtype, self._device)
        self._stream.wait_stream(torch.accelerator.current_stream(self._device))
        with self._stream:
            for work in works:
                work.wait()  # here the stream of the copy waits: neither the host nor the stream of the model does
            copy_to_host(torch.cat(list(tensors)), out=self._host[:num_elements])
            self._event.record(self._stream)
        self._tensors, self._works = tensors, works  # kept, since the stream of the copy reads them

    def is_ready(self) -> bool:
        """Return whether `read` would return without waiting."""
        return all(work.is_completed() for work in self._works) if self._stream is None else self._event.query()

    def read(self) -> list[torch.Tensor]:
        """Return the tensors on the host, after waiting for them if they are not there yet.

        Returns:
            A tensor on the host for each tensor, valid until the next call of `start`.
        """
        if self._stream is None:
            for work in self._works:
                work.wait()
            return [tensor.cpu() for tensor in self._tensors]
        self._event.synchronize()
        sizes = [len(tensor) for tensor in self._tensors]
        return list(torch.split(self._host[: sum(sizes)], sizes))


class MetricExchange:
    """Reduces all metrics over the ranks that count, with one collective operation for each kind of reduction.

    Args:
        metrics: The metrics by name, the same on all ranks.
        dist_context: The processes of the job.
    """

    def __init__(self, metrics: Mapping[str, Metric], dist_context: DistributedContext) -> None:
        self._dtype = accumulation_dtype(dist_context.device)
        self._group: ProcessGroup | None = None
        if dist_context.world_size > 1:
            self._group = dist_context.mesh_for("loss").get_group("loss")
        # All ranks have the same kinds, and reduce them in the same order.
        by_kind = {
            kind: {name: metric for name, metric in metrics.items() if metric.reduction == kind}
            for kind in get_args(Reduction)
        }
        self._by_kind = {kind: chosen for kind, chosen in by_kind.items() if chosen}
        self._sizes = {name: len(metric.share()) for name, metric in metrics.items()}
        self._set_aside: list[torch.Tensor] | None = None

    @property
    def names(self) -> Collection[str]:
        """The names of the metrics."""
        return self._sizes.keys()

    @property
    def num_elements(self) -> int:
        """The number of elements that all metrics share."""
        return sum(self._sizes.values())

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Make a context in which the metrics gather something else, from a reset to a reset.

        What they had gathered before is reduced together with what they gather later, by the reduction of each metric.
        """
        kept = self._take()
        try:
            yield
        finally:
            self._reset()
            self._set_aside = kept

    def start(self) -> tuple[list[torch.Tensor], list[Work]]:
        """Take what each metric has gathered, reset it, and start to reduce.

        Returns:
            A flat tensor for each kind of reduction, and the operations that complete them.

        Raises:
            ValueError: If the size of a metric's share has changed.
        """
        packs, group = self._take(), self._group
        if group is None:
            return packs, []
        works = [
            distributed.all_reduce(pack, _REDUCE_OPS[kind], group, async_op=True)
            for kind, pack in zip(self._by_kind, packs, strict=True)
        ]
        return packs, works

    def compute(self, packs: Sequence[torch.Tensor]) -> Iterator[tuple[str, float]]:
        """Compute the values of the metrics.

        Args:
            packs: The tensors that `start` returned, complete and on the host.

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

    def _take(self) -> list[torch.Tensor]:
        """Return what the metrics of each kind have gathered, with what was set aside, and reset them."""
        packs = [
            torch.cat([self._share(name, metric).to(self._dtype) for name, metric in metrics.items()])
            for metrics in self._by_kind.values()
        ]
        self._reset()
        kept, self._set_aside = self._set_aside, None
        if kept is None:
            return packs
        return [_COMBINE[kind](pack, earlier) for kind, pack, earlier in zip(self._by_kind, packs, kept, strict=True)]

    def _reset(self) -> None:
        for metrics in self._by_kind.values():
            for metric in metrics.values():
                metric.reset()

    def _share(self, name: str, metric: Metric) -> torch.Tensor:
        share = metric.share()
        if share.shape != (self._sizes[name],):
            raise ValueError(
                f"the share of metric {name!r} has the shape {list(share.shape)}, and had [{self._sizes[name]}] at "
                "first: return a flat tensor that always has the same size"
            )
        return share


class MetricSource(Protocol):
    """A task, or a subscriber that adds numbers to the reports as a task does."""

    def create_metrics(self, ctx: CreateMetricsContext, /) -> Mapping[str, Metric]:
        """Create the metrics, the same on all ranks."""


def create_subscriber_metrics(
    subscribers: Iterable[object], dist_context: DistributedContext, taken: Iterable[str]
) -> dict[str, Metric]:
    """Let subscribers create metrics, if they have `create_metrics`.

    Args:
        subscribers: The subscribers of this rank. All ranks need the same with `create_metrics`, in the same order.
        dist_context: The processes of the job.
        taken: The names of other metrics.

    Returns:
        The metrics by name.

    Raises:
        ConfigurationError: On all ranks, if the metrics cannot be reported or differ between ranks, or a name is taken.
    """
    sources: list[MetricSource] = [each for each in subscribers if hasattr(each, "create_metrics")]
    found: dict[str, Metric] = {}
    names = {*taken}
    for source, metrics in zip(sources, _create_metrics(sources, dist_context), strict=True):
        for name, metric in metrics.items():
            clashing = next((other for other in names if f"{name}/".startswith(f"{other}/")), None)
            if clashing is not None or any(other.startswith(f"{name}/") for other in names):
                raise ConfigurationError(
                    f"{_name_source(source)} names a metric {name!r}, but the task or another subscriber has a metric "
                    "of that name or under it: rename one of the two"
                )
            found[name] = metric
        names |= found.keys()
    return found


def create_task_metrics(task: MetricSource, dist_context: DistributedContext) -> dict[str, Metric]:
    """Let a task create its metrics, and refuse those that cannot be reported.

    Args:
        task: The task, or a subscriber.
        dist_context: The processes of the job, which must all have the same metrics.

    Returns:
        The metrics by name.

    Raises:
        ConfigurationError: On all ranks, if the metrics or their names cannot be reported.
    """
    (metrics,) = _create_metrics([task], dist_context)
    return metrics


def _create_metrics(sources: Sequence[MetricSource], dist_context: DistributedContext) -> list[dict[str, Metric]]:
    """Return the metrics of each source; a rank may have other sources than rank 0, which all ranks then refuse."""
    created = [source.create_metrics(CreateMetricsContext(dist_context=dist_context)) for source in sources]
    names = [_name_source(source) for source in sources]
    ranks = Ranks.of(dist_context)
    layouts = ranks.run_on_all_ranks(
        lambda: [(name, _check_metrics(name, metrics)) for name, metrics in zip(names, created, strict=True)]
    )
    first, *others = ranks.gather(layouts)
    for rank, other in enumerate(others, start=1):
        for found, expected in itertools.zip_longest(other, first):
            if found != expected:
                raise ConfigurationError(
                    f"{_describe_layout(found)} on rank {rank}, and {_describe_layout(expected)} on rank 0: create the "
                    "same metrics in the same order on all ranks, also on those that have nothing to count"
                )
    return [dict(metrics) for metrics in created]


def _name_source(source: MetricSource) -> str:
    return f"{type(source).__qualname__}.create_metrics"


def _describe_layout(found: tuple[str, list[str]] | None) -> str:
    if found is None:
        return "no other subscriber has create_metrics"
    name, layout = found
    return f"{name} returned {', '.join(layout) or 'nothing'}"


def _check_metrics(source: str, metrics: object) -> list[str]:
    """Return a description of what is reduced, in order, to compare between ranks."""
    if not isinstance(metrics, Mapping):
        raise ConfigurationError(
            f"{source} returned a {type(metrics).__qualname__}: return a mapping from names to metrics"
        )
    layout = []
    for name, metric in metrics.items():
        problem = _name_problem(name) or _metric_problem(name, metric)
        if problem is not None:
            raise ConfigurationError(f"{source} {problem}")
        layout.append(f"{name} ({metric.reduction} of {len(metric.share())})")
    for shorter, longer in itertools.permutations(metrics, 2):
        if longer.startswith(f"{shorter}/"):
            raise ConfigurationError(
                f"{source} names metrics {shorter!r} and {longer!r}, but {shorter!r} may itself report a number named "
                f"{longer!r}: rename one of them"
            )
    return layout


def _name_problem(name: object) -> str | None:
    if not isinstance(name, str) or not name:
        return f"names a metric {name!r}: use a string that is not empty"
    if (first := name.split("/")[0]) in RESERVED_NAMES:
        reserved = ", ".join(sorted(RESERVED_NAMES))
        return f"names a metric {name!r}, but the loop reports {first!r} itself: choose a name other than {reserved}"
    return None


def _metric_problem(name: str, metric: object) -> str | None:
    if not isinstance(metric, Metric):
        return f"returned a {type(metric).__qualname__} as {name!r}: return a Metric, such as a SumMetric"
    if metric.reduction not in get_args(Reduction):
        return f"returned {name!r} with reduction={metric.reduction!r}: use one of {', '.join(get_args(Reduction))}"
    shape = list(metric.share().shape)
    return None if len(shape) == 1 else f"returned {name!r}, whose share has the shape {shape}: flatten it"


class PeakMemory:
    """A metric of the most memory that tensors have taken on any device of the job, since the processes started.

    In bytes.

    Args:
        device: The device of this process.
        measure: Returns its peak memory, without waiting for the device.
    """

    reduction: Reduction = "max"

    def __init__(self, device: torch.device, measure: Callable[[torch.device], int]) -> None:
        self._device = device
        self._measure = measure

    @classmethod
    def of(cls, device: torch.device) -> Self | None:
        """Return the metric for a device.

        Args:
            device: The device.

        Returns:
            The metric; `None` for a device that does not count its memory, such as the CPU.
        """
        measure = getattr(accelerator_module(device), "max_memory_allocated", None)
        return None if measure is None else cls(device, measure)

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        num_bytes = self._measure(self._device)
        return torch.full((1,), num_bytes, dtype=accumulation_dtype(self._device), device=self._device)

    def compute(self, reduced: torch.Tensor, /) -> float:  # noqa: D102 -- inherited
        return reduced.item()

    def reset(self) -> None:
        """Do nothing: the peak belongs to the device, and others may read it too."""


def _learning_rates(optimizer: OptimizerProtocol | None) -> dict[str, float | torch.Tensor]:
    """Return the current learning rates, without waiting for a device that holds them.

    Returns:
        `learning_rate` if there is one parameter group, else `learning_rate/<index>` for each; nothing for an optimizer
        that is not one of torch's.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return {}
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    # A rate on the device is cloned, since schedulers change it in place; one on the host can be read at once.
    on_device = [isinstance(rate, torch.Tensor) and rate.device.type != "cpu" for rate in rates]
    copies = [
        rate.clone() if is_on_device else float(rate) for rate, is_on_device in zip(rates, on_device, strict=True)
    ]
    names = ["learning_rate"] if len(rates) == 1 else [f"learning_rate/{index}" for index in range(len(rates))]
    return dict(zip(names, copies, strict=True))


def build_reporter(
    config: LoopConfig,
    *,
    task: BaseTask,
    subscribers: Iterable[object] = (),
    stepper: Stepper,
    dist_context: DistributedContext,
    count_samples: Callable[[int], int] | None = None,
) -> Reporter:
    """Build the reporter of a loop; nothing is opened yet.

    Args:
        config: Says how often to report, and where to.
        task: Creates its metrics.
        subscribers: Those with `create_metrics` create metrics too.
        stepper: Counts the steps.
        dist_context: The processes of the job.
        count_samples: Returns how many samples the steps before a step have; by default each has `global_batch_size`.

    Returns:
        The reporter of this process.

    Raises:
        ConfigurationError: On all ranks, if metrics cannot be reported, or reports could not be written.
    """
    reporting = config.reporting
    task_metrics = create_task_metrics(task, dist_context)
    metrics = dict(task_metrics)
    metrics |= create_subscriber_metrics(subscribers, dist_context, metrics)
    Ranks.of(dist_context).run_on_rank_zero(lambda: require_writable(reporting))
    peak_memory = PeakMemory.of(dist_context.device)
    if peak_memory is not None:
        metrics["peak_memory_bytes"] = peak_memory
    return Reporter(
        stepper=stepper,
        period_steps=reporting.period_steps,
        exchange=MetricExchange(metrics, dist_context),
        task_metrics=task_metrics,
        device=dist_context.device,
        count_samples=count_samples or (lambda step: step * config.global_batch_size),
    )
