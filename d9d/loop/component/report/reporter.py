"""What a loop tells of itself, and when."""

import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch

from d9d.core.metric.accumulation import accumulation_dtype
from d9d.core.protocol import OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.report.console import Console
from d9d.loop.component.report.host_copy import HostCopy
from d9d.loop.component.report.learning_rate import learning_rates
from d9d.loop.component.report.metric_exchange import MetricExchange
from d9d.loop.component.report.report import Report, ReportSink

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

    def step_done(
        self,
        loss: torch.Tensor | None = None,
        gradient_norm: torch.Tensor | None = None,
        optimizer: OptimizerProtocol | None = None,
    ) -> None:
        """Report if it is due, without waiting for the device.

        Args:
            loss: The loss of the step over all processes, where there is one.
            gradient_norm: The norm of its gradients over all processes, where there is one.
            optimizer: Knows the learning rates of the step.
        """
        if self._pending is not None:
            self._publish_if_ready()
        if self._stepper.is_due(self._period_steps):
            self._publish()
            self._pending = self._begin(loss, gradient_norm, optimizer)
        if self._console is not None:
            self._console.step_done()

    def _begin(
        self, loss: torch.Tensor | None, gradient_norm: torch.Tensor | None, optimizer: OptimizerProtocol | None
    ) -> _PendingReport:
        candidates = {"loss": loss, "gradient_norm": gradient_norm, **learning_rates(optimizer)}
        on_device = {name: number for name, number in candidates.items() if isinstance(number, torch.Tensor)}
        dtype = accumulation_dtype(self._device)
        scalars = [number.detach().to(self._device, dtype).reshape(1) for number in on_device.values()]
        packs, works = self._exchange.begin()
        known = {name: number for name, number in candidates.items() if isinstance(number, float)}
        return _PendingReport(
            report=Report(
                loop=self._loop,
                num_steps=self._stepper.current_step + 1,
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
        num_steps, seconds = self._stepper.current_step + 1, max(now - self._measured_at, 1e-9)
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
